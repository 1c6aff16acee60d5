"""`tykpy top`: what a running broker does, from its snapshots in shared memory."""

import importlib.util
import sys
import time
from pathlib import Path

import click

from tykpy.commands.connecting import runtime_dir_option
from tykpy.commands.errors import CommandError
from tykpy.commands.terminal import no_traceback


@click.command(short_help="Show live rates, times and errors of hooks.")
@click.option("--once", is_flag=True, help="Print one frame, over one second, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per second; with --once only one.")
@runtime_dir_option
def top(once: bool, as_json: bool, runtime_dir: Path) -> None:
    """Show what a running broker does, and what its hooks take: rates, times, errors, queue and workers.

    Reads shared memory: this works as well when the broker's event loop is stuck. Keys: < and > choose the column to
    sort by, s shows the stacks of the workers, r reloads the bundles, q quits. Needs tykpy[tui], except with --json.
    """
    with no_traceback():
        if as_json:
            _print_json(runtime_dir, once=once)
            return
        if importlib.util.find_spec("rich") is None:
            raise CommandError("tykpy top needs an extra: pip install 'tykpy[tui]' (--json works without)")
        if once:
            _print_once(runtime_dir)
            return
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise CommandError("tykpy top needs a terminal; use --once or --json")
        from tykpy.commands.top.live import run

        run(runtime_dir)


def _print_json(runtime_dir: Path, *, once: bool) -> None:
    import msgspec

    from tykpy.commands.top.samples import SAMPLE_SECONDS, Samples

    samples = Samples(runtime_dir)
    samples.take()
    while True:
        time.sleep(SAMPLE_SECONDS)
        click.echo(msgspec.json.encode(samples.take()))
        if once:
            return


def _print_once(runtime_dir: Path) -> None:
    from rich.console import Console

    from tykpy.commands.top.samples import SAMPLE_SECONDS, Samples
    from tykpy.commands.top.screen import Screen

    samples = Samples(runtime_dir)
    samples.take()
    time.sleep(SAMPLE_SECONDS)
    view = samples.take()
    Console(highlight=False, markup=False, emoji=False).print(Screen(view, rows=len(view.hooks)))
