"""Requests to a running broker, on its admin socket; `tykpy reload`, `scale` and `log-level`."""

from pathlib import Path
from typing import Any, Final

import click

from tykpy.commands import parameters
from tykpy.commands.connecting import runtime_dir_option
from tykpy.commands.errors import CommandError
from tykpy.commands.terminal import no_traceback, print_problems, table
from tykpy.telemetry.records import counted

_UNREACHED: Final = ("UNAVAILABLE", "EXPIRED")
"""Codes of a broker that could not be reached; any other is its answer."""
_ANSWER_TIMEOUT: Final = 10.0
"""Seconds."""
_timeout_option = click.option(
    "--timeout", type=parameters.time, metavar=parameters.TIME, default="2m", show_default=True,
    help="Time to wait for the answer.",
)  # fmt: skip


def ask_broker(runtime_dir: Path, method: str, *params: Any, timeout: float | None = None) -> Any:
    """Call a method of the running broker on its admin socket.

    Raises CommandError if it refuses, with every problem on a line of its own, or does not answer.
    """
    from tykpy.broker.errors import RpcError
    from tykpy.broker.net.addresses import ADMIN_SOCKET
    from tykpy.client.rpc import RpcClient

    path = runtime_dir / ADMIN_SOCKET
    try:
        with RpcClient(str(path), timeout or _ANSWER_TIMEOUT) as client:
            return client.call(method, *params)
    except RpcError as error:
        if error.code in _UNREACHED:
            raise CommandError(_why_unreached(runtime_dir, path, error.message)) from error
        raise CommandError(f"{method.replace('_', '-')} refused: {error.message}") from error


def _why_unreached(runtime_dir: Path, path: Path, message: str) -> str:
    """Say what the broker's last snapshot tells about it: whether it was killed, or hangs, and how it was then."""
    from tykpy.telemetry.live_segment import read_live_snapshot

    seen = read_live_snapshot(runtime_dir)
    message = message if str(path) in message else f"{path}: {message}"
    if seen is None or (seen.is_running and not seen.snapshot.is_stuck):
        return f"no broker answers: {message}; is --runtime-dir the broker's own?"
    last_seen = f"last seen {seen.snapshot.age:.1f} s ago: {seen.snapshot}"
    if seen.is_running:
        return f"the broker does not answer{seen.hint}; {last_seen}"
    return f"no broker answers: {message}; the last one was killed; {last_seen}"


@click.command("reload", short_help="Load the bundles again; no call fails meanwhile.")
@runtime_dir_option
@_timeout_option
def reload_bundles(runtime_dir: Path, timeout: float) -> None:
    """Load the bundles as they are now: new workers load them and take over, and no call fails meanwhile.

    Refuses, and exits with 1, if something that works now would stop working.
    """
    from tykpy.broker.catalog import bundle_names

    with no_traceback():
        answer = ask_broker(runtime_dir, "reload", timeout=timeout)
    bundles = answer["bundles"]
    rows = ((*bundle_names.columns_of(bundle), bundle["change"], str(bundle["hooks"])) for bundle in bundles)
    table(("BUNDLE", "NAME", "APIS", "NOW", "HOOKS"), rows)
    print_problems(bundle_names.explain(problem, [bundle]) for bundle in bundles for problem in bundle["problems"])
    click.echo(f"reloaded by {counted(answer['workers'], 'worker')} in {answer['seconds']:.2f} s")


@click.command(short_help="Set the number of workers.")
@click.argument("workers", type=parameters.WholeBetween(0, 2**31 - 1))
@runtime_dir_option
@_timeout_option
def scale(workers: int, runtime_dir: Path, timeout: float) -> None:
    """Set the number of WORKERS until the broker ends; surplus workers finish what they run."""
    with no_traceback():
        answer = ask_broker(runtime_dir, "scale", workers, timeout=timeout)
        click.echo(f"{counted(answer['workers'], 'worker')} from now on")


@click.command("log-level", short_help="Change the log level for a while.")
@click.argument("level", type=click.Choice(("debug", "info", "warning", "error")), metavar="LEVEL")
@click.option(
    "--for", "seconds", type=parameters.time, metavar=parameters.TIME, default="1m", show_default=True,
    help="Time after which the level of --log-level counts again.",
)  # fmt: skip
@runtime_dir_option
def log_level(level: str, seconds: float, runtime_dir: Path) -> None:
    """Log from LEVEL on (debug, info, warning or error), in the broker and its workers, for a while.

    The broker brings back its own level by itself. `tykpy status` shows the level under `log`.
    """
    from tykpy.broker.units import show_time

    with no_traceback():
        answer = ask_broker(runtime_dir, "log_level", level, seconds)
        click.echo(f"the log level is {answer['level']} for {show_time(seconds)}")
