"""What commands print: tables, text without control characters, and errors without a traceback."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NoReturn

import click

from tykpy.broker.errors import BrokerError
from tykpy.commands.errors import CommandError
from tykpy.telemetry.records import printable

EXIT_ERROR: Final = 1
_MAX_LINE: Final = 10_000
"""Longest line that is shown, in characters."""


def harmless(text: object) -> str:
    """Escape what controls a terminal: names and messages come from plugins and peers."""
    return "\n".join(printable(line, _MAX_LINE) for line in str(text).splitlines())


def table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows in aligned columns."""
    lines = [heading, *(tuple(map(harmless, row)) for row in rows)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(heading))]
    for row in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
    except (CommandError, BrokerError, OSError) as error:
        _fail(error)


def _fail(message: object) -> NoReturn:
    for line in str(message).splitlines() or [""]:
        click.echo(f"tykpy: {harmless(line)}", err=True)
    sys.exit(EXIT_ERROR)
