"""Bounds of what a worker tells the broker about its bundles: both sides keep to them."""

from typing import Final

MAX_NAME: Final = 256
"""Characters of a hook's name. A file's name, which names its bundle, has at most as many."""
MAX_PATH: Final = 4_096
"""Characters of a bundle's path, which tells bundles apart."""
MAX_TIMEOUT: Final = 1e9
"""Seconds of a hook's `timeout`: thirty years."""
