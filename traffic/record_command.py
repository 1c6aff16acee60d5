"""`tykpy record`: record a running broker's dispatches into a file; `tykpy record show`: show one."""

import json
import re
import signal
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tykpy.commands import parameters
from tykpy.commands.connecting import runtime_dir_option
from tykpy.commands.terminal import harmless, no_traceback, on_one_line
from tykpy.telemetry.records import counted

if TYPE_CHECKING:
    from tykpy.traffic.recording import CallRecord, Recording

_PERCENT: Final = 100
_SHARE: Final = re.compile(r"([0-9]{0,18}\.?[0-9]{1,18})(%?)")
MIB: Final = 1024 * 1024


def _share(value: str | float) -> float:
    match = _SHARE.fullmatch(str(value))
    share = float(match[1]) / (_PERCENT if match[2] else 1) if match else 0
    if not 0 < share <= 1:
        raise click.BadParameter(f"{value}: write a share such as 1% or 0.01, above 0 and at most 100%")
    return share


def _names(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[str]:
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    for name in names:
        if not name.isprintable():
            raise click.BadParameter(f"{name!r} is no name")
    return names


@click.group(invoke_without_command=True, short_help="Record the dispatches of a running broker.")
@click.pass_context
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The file to write; it must not exist."
)
@click.option("--sample", type=_share, default="100%", show_default=True, metavar="SHARE",
              help="The share of dispatches to record, e.g. 1%.")  # fmt: skip
@click.option("--rate", type=parameters.WholeBetween(0), default=1_000, show_default=True, metavar="CALLS",
              help="Record at most so many calls per second; each 8 KiB count as one. 0: all.")  # fmt: skip
@click.option("--hook", "hooks", multiple=True, callback=_names, metavar="NAME",
              help="Record this hook only: its name, or BUNDLE/HOOK. Repeatable.")  # fmt: skip
@click.option("--redact", multiple=True, callback=_names, metavar="NAME,...",
              help="Replace the values of these headers, query parameters, form and JSON fields; of $.path.to.field in "
              "JSON bodies only there. Added to the built-in names of credentials. Repeatable.")  # fmt: skip
@click.option("--max", "max_size", type=parameters.size, metavar=parameters.SIZE, default="1GiB", show_default=True,
              help="End when the file has this size.")  # fmt: skip
@click.option("--for", "seconds", type=parameters.time, metavar=parameters.TIME, default="10m", show_default=True,
              help="End after this time. 0: with Ctrl-C.")  # fmt: skip
@runtime_dir_option
def record(
    ctx: click.Context, output: Path | None, sample: float, rate: int, hooks: list[str], redact: list[str],
    max_size: int, seconds: float, runtime_dir: Path,
) -> None:  # fmt: skip
    """Record the dispatches of a running broker, without their secrets, to replay them later.

    No dispatch waits for the recording: what cannot be taken in time, or is more than --rate, is left out and counted,
    so that a busy broker is at most 2 % slower. Headers such as
    Authorization and Cookie, and fields called password or token, are replaced before anything is written.
    """
    if ctx.invoked_subcommand is not None:
        return
    if output is None:
        raise click.UsageError("name the file to write: -o FILE")
    from tykpy.traffic.recording import VERSION, RecordingHeader, RecordingWriter, create
    from tykpy.traffic.redaction import Redactor
    from tykpy.traffic.tap import started, take, unknown_hooks

    with no_traceback():
        redactor = Redactor(redact)
        header = RecordingHeader(VERSION, version("tykpy"), time.time(), sample, tuple(hooks), redactor.rules)
        with started(runtime_dir, sample, hooks, rate) as client, create(output) as file:
            writer = RecordingWriter(file, header)
            writer.flush()
            click.echo(f"recording into {output}; end it with Ctrl-C", err=True)
            for name in unknown_hooks(client, hooks):
                click.echo(f"note: no bundle has a hook {harmless(name)} now; see `tykpy hooks`", err=True)
            ending = _Ending()
            reason = take(client, writer, redactor, max_size, seconds, ending)
            writer.end(reason)
        click.echo(f"{counted(writer.calls, 'call')}, {writer.dropped} dropped, {writer.size / MIB:.1f} MiB: {reason}")


class _Ending:
    """Whether Ctrl-C or SIGTERM asked for the end."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


@record.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "whole", is_flag=True, help="Print whole calls, one JSON object per line.")
def show(file: Path, whole: bool) -> None:
    """Show the calls of a recording."""
    from tykpy.traffic.recording import Recording

    with no_traceback(), closing(Recording(file)) as recording:
        if not whole:
            _show_header(recording)
        for number, call in enumerate(recording.calls(), 1):
            click.echo(json.dumps(_as_json(call)) if whole else _line(number, call))
        if recording.end is None:
            click.echo("tykpy: the recording was cut off: its last calls may be missing", err=True)
        elif not whole:
            click.echo(
                f"{counted(recording.end.calls, 'call')}, {recording.dropped} dropped: "
                f"{on_one_line(recording.end.reason)}"
            )


def _show_header(recording: "Recording") -> None:
    header = recording.header
    hooks = ", ".join(header.hooks) or "all hooks"
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(header.started))
    except (OSError, OverflowError, ValueError):
        started = "an impossible time"
    what = f"{header.sample * 100:.4g}% of {hooks}, since {started}, by tykpy {header.program}"
    click.echo(on_one_line(f"{recording.path}: {what}"))
    click.echo(on_one_line(f"redacted: {', '.join(header.redacted)}"))


def _line(number: int, call: "CallRecord") -> str:
    """Return a call as one line."""
    from tykpy.traffic.calls import request_line

    took = "not run" if call.hook_us is None else f"{call.hook_us / 1000:.2f} ms"
    error = f": {call.message}" if call.message else ""
    what = f"{call.bundle}/{call.hook}" if call.bundle else call.hook
    return on_one_line(f"{number:>6} {what} {request_line(call)} {call.code} {took}{error}")


def _as_json(call: "CallRecord") -> dict[str, Any]:
    from tykpy.traffic.calls import as_map

    return as_map(call)
