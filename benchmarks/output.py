"""What the benchmarks' command lines share: what is said meanwhile, how they fail, and the files that they write."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console

from benchmarks.errors import BenchmarkError
from tykpy.commands.errors import CommandError

EXIT_ERROR: Final = 1
PLAIN_WIDTH: Final = 200
"""Columns of a table that goes into a file or a pipe."""

R = TypeVar("R")


def console_for_tables() -> Console:
    """Where tables are printed: as wide as the terminal, and wide enough elsewhere."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    return tuple(int(part) for part in text.split(","))


def command_line(module: str) -> str:
    """How this run was started, to be repeated."""
    return " ".join([f"python -m {module}", *sys.argv[1:]])


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of these cells."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ("---",) * len(columns), *rows))


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """`--json` and `--markdown`, for `write_files`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")


def attempt(measure: Callable[[], R]) -> R | None:
    """What was measured; None where that failed, and why is said."""
    try:
        return measure()
    except (BenchmarkError, CommandError) as error:
        say(f"error: {error}")
        return None


def write_files(arguments: argparse.Namespace, figures: dict[str, Any], markdown: str) -> None:
    """Write the files that were asked for."""
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(markdown)
