"""Types of command-line values: sizes and times with units, modes, numbers in digits 0 to 9, paths.

Each is a function for `type=` of an option, together with the `metavar` that names it in help texts. An error names the
option, the value and the accepted forms.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from tykpy.broker.units import parse_size, parse_time, parse_whole, quoted, show_time

Number = TypeVar("Number", int, float)

INTEGER: Final = "INTEGER"
SIZE: Final = "SIZE"
TIME: Final = "TIME"
_OCTAL: Final = re.compile(r"(?:0o)?[0-7]{1,10}")


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


def whole(value: str | int) -> int:
    """Parse a whole number; not with click's own type, which also takes `1_0` and the digits of other scripts."""
    return _parsed(value, parse_whole)


class WholeBetween(click.IntRange):
    """A whole number within bounds, which the help text shows."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse it. Raises BadParameter."""
        return super().convert(whole(value), param, ctx)


class GivenPath(click.Path):
    """A path that is not empty: `--runtime-dir "$UNSET"` would otherwise mean the working directory."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises BadParameter."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


def octal(value: str | int) -> int:
    """Parse permissions such as `0660`."""
    if isinstance(value, int):
        return value
    if not _OCTAL.fullmatch(value):
        raise click.BadParameter(f"{quoted(value)} is not a mode like 0660")
    return int(value, 8)


def _parsed(value: str | Number, parse: Callable[[str], Number]) -> Number:
    # Numbers come from defaults and from tykpy.toml.
    try:
        return parse(str(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
