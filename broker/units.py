"""Sizes and times as people write them: `512MiB`, `16MB`, `1.5s`, `100ms`.

A plain number is in bytes, or in seconds. What `show_size` and `show_time` return can be parsed again.
"""

import math
import re
from decimal import Decimal
from typing import Final

from tykpy.ipc.text import CUT

SIZE_FORMS: Final = "bytes, or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB, such as 512MiB"
TIME_FORMS: Final = "seconds, or a number with ms, s, m, h or d, such as 1.5s"

SIZE_PATTERN: Final = r"^[0-9]+$|^[0-9]{1,18}(\.[0-9]{1,18})? ?([KkMmGgTtPp][Ii]?)?[Bb]$"
TIME_PATTERN: Final = r"^[0-9]{1,18}(\.[0-9]{1,18})?( ?(ms|s|m|h|d))?$"
"""Strings that are sizes and times, for schemas."""

_SIZES: Final = {
    "PiB": 2**50, "PB": 10**15, "TiB": 2**40, "TB": 10**12, "GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6,
    "KiB": 2**10, "KB": 10**3, "B": 1,
}  # fmt: skip
"""Largest first: `show_size` takes the first that divides."""
_FACTORS: Final = {unit.lower(): factor for unit, factor in _SIZES.items()}
_MAX_SHOWN: Final = 100
"""Characters of a wrong value in an error message."""
_TIMES: Final = {"d": Decimal(86_400), "h": Decimal(3_600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
# `int` and `float` also take the digits of other scripts, and underscores.
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,30}")
_SECONDS: Final = re.compile(r"[+-]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_QUANTITY: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([A-Za-z]{1,3})")


def parse_whole(text: str) -> int:
    """Return a whole number. Raises ValueError unless it is written with digits 0 to 9."""
    if not _WHOLE.fullmatch(text.strip()):
        raise ValueError(f"{quoted(text)} is not a whole number: give digits, such as 16")
    return int(text)


def quoted(text: str) -> str:
    """Return a value as an error message shows it: on one line, and not all of a long one."""
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + CUT)


def parse_size(text: str) -> int:
    """Return a number of bytes, rounded up. Raises ValueError, which names the accepted forms.

    Units may be in lower case. `K` and `M` are refused: they are 1024 for some programs, and 1000 for others.
    """
    if _WHOLE.fullmatch(text.strip()):
        return int(text)
    number, unit = _split(text)
    factor = _FACTORS.get(unit.lower())
    if factor is None:
        raise ValueError(f"{quoted(text)} is not a size: give {SIZE_FORMS}")
    return math.ceil(number * factor)


def parse_time(text: str) -> float:
    """Return a number of seconds. Raises ValueError, which names the accepted forms."""
    if _SECONDS.fullmatch(text.strip()):
        seconds = float(text)
    else:
        number, unit = _split(text)
        seconds = float(number * _TIMES.get(unit, Decimal("NaN")))
    if not math.isfinite(seconds):
        raise ValueError(f"{quoted(text)} is not a time: give {TIME_FORMS}")
    return seconds


def _split(text: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(text.strip())
    return (Decimal(match[1]), match[2]) if match else (Decimal(0), "")


def show_size(size: int) -> str:
    """Return a size with the largest unit that divides it: `48MiB`, `16MB`, `5B`."""
    for unit, factor in _SIZES.items():
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return "0"


def show_time(seconds: float) -> str:
    """Return a time with the largest unit that divides it: `2m`, `1.5s`, `100ms`."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % int(_TIMES[unit]) == 0:
            return f"{seconds / int(_TIMES[unit]):.15g}{unit}"
    if 0 < seconds < 1:
        return f"{seconds * 1000:.15g}ms"
    return f"{seconds:.15g}s" if seconds else "0"
