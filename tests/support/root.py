"""The root of the source tree."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
