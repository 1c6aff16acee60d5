"""What commands print: tables, text without control characters, and errors without a traceback."""

import contextlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NoReturn

import click

from tykpy.broker.errors import BrokerError
from tykpy.commands.errors import CommandError
from tykpy.ipc.text import CUT
from tykpy.telemetry.records import printable

EXIT_ERROR: Final = 1
_MAX_LINE: Final = 10_000
"""Longest line that is shown, in characters."""
_LONG_UNITS: Final = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
_EXACT_BELOW: Final = 10
"""Seconds that are shown with a decimal."""
_GAP: Final = "  "
"""Between two columns."""
_NARROWEST: Final = 7
"""Characters that a column keeps in any case: two of each end of a long name."""


def harmless(text: object) -> str:
    """Escape what controls a terminal: names and messages come from plugins and peers."""
    return "\n".join(printable(line, _MAX_LINE) for line in str(text).splitlines())


def on_one_line(text: object) -> str:
    """Escape what controls a terminal, and ends of lines as well: no value can look like another line."""
    return printable(str(text), _MAX_LINE)


def terminal_width() -> int | None:
    """Return the columns of the terminal; None if the output goes to a file or a pipe, which take whole lines."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    heading: tuple[str, ...], rows: Iterable[tuple[str, ...]], width: int | None = None, spare: str | None = None
) -> None:
    """Print rows in aligned columns.

    If they need more than `width`, leave out the column `spare`, then cut the longest cells in the middle.
    """
    lines = [heading, *(tuple(map(harmless, row)) for row in rows)]
    widths = _widths(lines)
    if width is not None and _sum(widths) > width:
        if spare is not None:
            lines = [_without(row, heading.index(spare)) for row in lines]
        widths = _narrowed(_widths(lines), width)
    for row in lines:
        cells = (shortened(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(_GAP.join(cells).rstrip())


def long_time(seconds: float) -> str:
    """Return a time in its two greatest units, such as `3 h 12 min`."""
    for size, unit, smaller, smaller_unit in _LONG_UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // smaller:.0f} {smaller_unit}"
    return f"{seconds:.0f} s" if seconds >= _EXACT_BELOW else f"{seconds:.1f} s"


def shortened(text: str, width: int) -> str:
    """Cut the middle out of a text that is wider: names often differ only at their ends."""
    if len(text) <= width:
        return text
    kept = max(width - len(CUT), 0)
    return (text[: kept - kept // 2] + CUT + text[len(text) - kept // 2 :])[:width]


def _widths(lines: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _without(row: tuple[str, ...], column: int) -> tuple[str, ...]:
    return row[:column] + row[column + 1 :]


def _narrowed(widths: list[int], available: int) -> list[int]:
    """Take from the widest columns what is too much."""
    while _sum(widths) > available and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def print_problems(problems: Iterable[object]) -> int:
    """Print problems to standard error; return their number."""
    found = list(problems)
    for problem in found:
        click.echo(f"problem: {harmless(problem)}", err=True)
    return len(found)


@contextlib.contextmanager
def no_traceback() -> Iterator[None]:
    """End the command with a message where its work raises an expected error."""
    try:
        yield
    except BrokenPipeError:
        raise  # `tykpy status | head -1`: click ends without a message
    except (CommandError, BrokerError, OSError) as error:
        _fail(error)


def _fail(message: object) -> NoReturn:
    for line in str(message).splitlines() or [""]:
        click.echo(f"tykpy: {harmless(line)}", err=True)
    sys.exit(EXIT_ERROR)
