"""Refuse to start on systems that lack what the broker and its workers are built on."""

import os
import re
from pathlib import Path
from typing import Final

from tykpy.broker.errors import ConfigError

OLDEST: Final = (5, 10)
"""Linux: memfd (3.17), pidfd_open (5.3) and eventfds that are read without waiting (5.8), in a release with long
support."""
_PROC: Final = Path("/proc/self/fd")


def check_kernel() -> None:
    """Raise ConfigError unless this is Linux 5.10 or newer with /proc."""
    system = os.uname()
    numbers = re.match(r"(\d+)\.(\d+)", system.release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if system.sysname != "Linux" or version < OLDEST:
        raise ConfigError(
            f"tykpy needs Linux {OLDEST[0]}.{OLDEST[1]} or newer; this is {system.sysname} {system.release}"
        )
    if not _PROC.is_dir():
        raise ConfigError("tykpy needs /proc; it is not mounted")
