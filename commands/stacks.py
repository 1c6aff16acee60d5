"""`tykpy stacks`: what the threads and asyncio tasks of the broker and its workers do at this moment."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tykpy.commands import parameters
from tykpy.commands.connecting import runtime_dir_option
from tykpy.commands.pool import ask_broker
from tykpy.commands.terminal import harmless, no_traceback


@click.command(short_help="Show the stacks of all threads and tasks.")
@click.argument("worker", type=parameters.WholeBetween(0, 2**31 - 1), required=False)
@runtime_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def stacks(worker: int | None, runtime_dir: Path, as_json: bool) -> None:
    """Show the stacks of all threads and asyncio tasks, of the broker and its workers or of one WORKER.

    Places in the code are shown, and no values. Of a worker that does not answer within a second, because it hangs or
    a hook keeps the interpreter lock, only the threads are shown, innermost frame first.
    """
    with no_traceback():
        answer = ask_broker(runtime_dir, "stacks", *([] if worker is None else [worker]))
        if as_json:
            click.echo(json.dumps(answer, indent=2))
            return
        for line in lines_of(answer):
            click.echo(harmless(line))


def lines_of(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the broker's answer as lines for people; control characters in them are not escaped."""
    # Workers first: hooks are what people look for.
    for row in answer["workers"]:
        yield from _lines(f"worker {row['slot']} (process {row['pid']}), {row['state']}", row)
    for broker in answer["broker"]:
        yield from _lines(f"broker (process {broker['pid']})", broker)


def _lines(title: str, row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{title}: {row['why']}" if row.get("why") else title
    yield from (f"  {line}" for line in (row["stacks"] or "").splitlines())
    yield ""
