"""`tykpy status`: how a running broker is, for people and for scripts."""

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from tykpy.commands.connecting import runtime_dir_option
from tykpy.commands.errors import CommandError
from tykpy.commands.pool import ask_broker
from tykpy.commands.terminal import harmless, long_time, no_traceback, table, terminal_width
from tykpy.telemetry.records import counted
from tykpy.telemetry.snapshot import Snapshot, decode_snapshot

WIDTH: Final = 80
"""Columns of lines that go to a file or pipe."""
MAX_PROBLEMS: Final = 20
MAX_WORKERS: Final = 16
"""Rows of the table of workers."""
_INDENT: Final = 14
_LONGEST: Final = 500
"""Characters that are shown of one problem."""


@click.command(short_help="Show the state of a running broker.")
@runtime_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known, as JSON, for scripts.")
def status(runtime_dir: Path, as_json: bool) -> None:
    """Show how a running broker is: whether it is ready, its workers, queue, storage, events and what is wrong.

    If it does not answer, show how it was when its event loop last turned, and exit with 1.
    """
    with no_traceback():
        if as_json:
            click.echo(json.dumps(ask_broker(runtime_dir, "status"), indent=2))
            return
        try:
            details = ask_broker(runtime_dir, "status")
        except CommandError:
            _show_last_seen(runtime_dir)
            raise
        try:
            snapshot = decode_snapshot(ask_broker(runtime_dir, "snapshot"))
        except (CommandError, ValueError) as error:
            raise CommandError(f"the broker is of another version than this command ({error}); use --json") from error
        _show(snapshot, details)


def _show_last_seen(runtime_dir: Path) -> None:
    from tykpy.telemetry.live_segment import read_live_snapshot

    seen = read_live_snapshot(runtime_dir)
    if seen is not None and (seen.snapshot.is_stuck or not seen.is_running):
        _show(seen.snapshot, None)


def _show(snapshot: Snapshot, details: Mapping[str, Any] | None) -> None:
    """`details`: what the broker answers; None if it does not."""
    width = terminal_width() or WIDTH
    for line in lines_of(snapshot, details, width):
        click.echo(line)
    rows = list(worker_rows(snapshot))
    if rows:
        click.echo()
        table(("WORKER", "PID", "STATE", "UP", "BUSY", "HANDLED", "IN FLIGHT", "THREADS"), rows[:MAX_WORKERS], width)
    if len(rows) > MAX_WORKERS:
        click.echo(f"and {len(rows) - MAX_WORKERS} more (--json)")


def lines_of(snapshot: Snapshot, details: Mapping[str, Any] | None, width: int) -> Iterator[str]:
    """Yield what is to be said about the broker as a whole, in lines of at most `width` characters."""
    for label, text in _facts(snapshot, details):
        yield from _wrapped(f"{label:{_INDENT}}{harmless(text)}", " " * _INDENT, width)
    problems = list(_problems(snapshot, details))
    for problem in problems[:MAX_PROBLEMS]:
        yield from _wrapped(f"  {harmless(problem[:_LONGEST])}", "    ", width)
    if len(problems) > MAX_PROBLEMS:
        yield f"  and {len(problems) - MAX_PROBLEMS} more (tykpy hooks)"


def worker_rows(snapshot: Snapshot) -> Iterator[tuple[str, ...]]:
    """Yield slot, process, state, age, busy share, answered and running dispatches, and threads of every worker."""
    for worker in sorted(snapshot.workers, key=lambda one: (one.slot, one.generation)):
        age_ns = max(snapshot.time_ns - worker.started_ns, 1)
        yield (
            str(worker.slot),
            str(worker.pid),
            worker.state,
            long_time(age_ns / 1e9),
            f"{worker.busy_ns / age_ns:.0%}",
            f"{worker.handled:,}",
            str(worker.in_flight),
            str(worker.threads),
        )


def _facts(snapshot: Snapshot, details: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    up = long_time(max(snapshot.taken_at - snapshot.started, 0))
    yield "tykpy", f"{snapshot.version}, process {snapshot.pid}, up {up}"
    yield "state", _state(snapshot, answers=details is not None)
    yield "workers", _joined([f"{snapshot.ready} of {snapshot.wanted} ready", _restarts(snapshot)])
    held = _size(snapshot.held_bytes + snapshot.arriving_bytes)
    yield "queue", f"{snapshot.waiting:,} waiting, {snapshot.under_way:,} under way, {held} held"
    yield "dispatches", _counted(snapshot.dispatches, ("taken", "answered"))
    if any(snapshot.rejected.values()):
        yield "rejected", _counted(snapshot.rejected)
    streams = counted(snapshot.streams, "stream")
    yield "connections", f"{_counted(snapshot.connections, snapshot.connections)}, {streams}"
    store = snapshot.store
    yield "store", _joined([f"{store.kind}, {store.state}", counted(store.errors, "error") if store.errors else ""])
    sinks = [f"{name}: {_counted(counts)}" for name, counts in snapshot.events.items() if any(counts.values())]
    yield "events", "; ".join(sinks) or "none"
    if details is not None:
        yield "last reload", _reload(details["reload"])
        yield "last upgrade", _upgrade(details["upgrade"])
    if log := _log(snapshot, details):
        yield "log", log
    whole = sum(not bundle.flaw for bundle in snapshot.bundles)
    total = len(snapshot.bundles) + len(snapshot.unloaded)
    yield "bundles", f"{whole} of {total} loaded completely" if total else "none"


def _state(snapshot: Snapshot, *, answers: bool) -> str:
    if not answers:
        return f"does not answer; last seen {long_time(snapshot.age)} ago, and this is how it was"
    what = "reloading, " if snapshot.reloading else ""
    reasons = "; ".join(one.text for one in snapshot.not_ready)
    return f"{what}NOT READY: {reasons}" if reasons else f"{what}ready"


def _restarts(snapshot: Snapshot) -> str:
    reasons = _counted(snapshot.restarts)
    return f"replaced for: {reasons}" if reasons else ""


def _reload(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "none"
    took = f"in {last['seconds']:.2f} s"
    # The lines after the first one say what is wrong with each bundle.
    why = last["why"][:_LONGEST].replace("\n", ": ", 1).replace("\n", "; ") if not last["ok"] else ""
    return f"ok, {took}" if last["ok"] else f"REFUSED {took}: {why}"


def _upgrade(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "none"
    return f"ok, process {last['pid']} has taken over" if last["ok"] else f"FAILED: {last['why'][:_LONGEST]}"


def _log(snapshot: Snapshot, details: Mapping[str, Any] | None) -> str:
    lost = f"{counted(snapshot.log_dropped, 'record')} lost" if snapshot.log_dropped else ""
    if details is None:
        return lost
    log = details["log"]
    left = "" if log["seconds_left"] is None else f" for another {long_time(log['seconds_left'])}"
    return _joined([f"{log['file'] or 'standard error'}, level {log['level']}{left}", lost])


def _problems(snapshot: Snapshot, details: Mapping[str, Any] | None) -> Iterator[str]:
    for one in snapshot.breakers:
        place = f" of {one.bundle}" if one.bundle else ""
        again = f"in {long_time(one.left_s)}" if one.left_s else "now"
        yield f"hook {one.hook}{place} is not run, it killed workers: breaker {one.state}, tried again {again}"
    if details is None:
        yield from (f"{one.name}: {one.flaw}" for one in snapshot.bundles if one.flaw)
    else:
        for bundle in details["bundles"]:
            yield from bundle["problems"]
            if bundle["saved_copy"]:
                yield f"{bundle['name']} {bundle['saved_copy']}"
    yield from (f"{name}: not loaded: {why}" for name, why in snapshot.unloaded.items())


def _counted(counts: Mapping[str, int], always: Iterable[str] = ()) -> str:
    """Return the counts that are not 0, and these ones `always`."""
    shown = {name: count for name, count in counts.items() if count or name in always}
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in shown.items())


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(filter(None, texts))


def _size(size: int) -> str:
    if size < 2**10:
        return f"{size} bytes"
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, drop_whitespace=True) or [text]
