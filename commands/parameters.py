"""Types of command-line values that click does not have: sizes and times with units, modes, counts.

Each is a function for `type=` of an option, together with the `metavar` that names it in help texts. An error names the
option, the value and the accepted forms.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import click

from tykpy.broker.units import parse_size, parse_time, show_time

Number = TypeVar("Number", int, float)

SIZE: Final = "SIZE"
TIME: Final = "TIME"


def size(value: str | int) -> int:
    """Parse a size such as `512MiB`; a plain number is in bytes."""
    return _parsed(value, parse_size)


def time(value: str | float) -> float:
    """Parse a time such as `1.5s`; a plain number is in seconds."""
    return _parsed(value, parse_time)


def whole_seconds(value: str | float) -> int:
    """Parse a time such as `2m` that the kernel counts in whole seconds."""
    seconds = time(value)
    if seconds != int(seconds):
        raise click.BadParameter(f"{value} is not a whole number of seconds")
    return int(seconds)


def time_between(low: float, high: float) -> Callable[[str | float], float]:
    """Return the type of a time within bounds, in seconds."""

    def parse(value: str | float) -> float:
        seconds = time(value)
        if not low <= seconds <= high:
            raise click.BadParameter(f"{value}: must be between {show_time(low)} and {show_time(high)}")
        return seconds

    return parse


def octal(value: str | int) -> int:
    """Parse permissions such as `0660`."""
    try:
        return value if isinstance(value, int) else int(value, 8)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a mode like 0660") from None


def _parsed(value: str | Number, parse: Callable[[str], Number]) -> Number:
    # Numbers come from defaults and from tykpy.toml.
    try:
        return parse(str(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
