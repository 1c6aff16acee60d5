"""What `tykpy status` says about a snapshot, to people."""

from typing import Any

import msgspec

from tests.support.snapshots import a_snapshot
from tykpy.commands.status import MAX_PROBLEMS, lines_of, worker_rows
from tykpy.telemetry.snapshot import BundleState, NotReady, Snapshot, WorkerState


def details(**changes: Any) -> dict[str, Any]:
    """What the broker answers besides its snapshot."""
    quiet: dict[str, Any] = {
        "bundles": [],
        "reload": None,
        "upgrade": None,
        "log": {"level": "info", "seconds_left": None, "file": ""},
    }
    return quiet | changes


def shown(snapshot: Snapshot, answer: dict[str, Any] | None, width: int = 80) -> dict[str, str]:
    """Return the text by label; problems, which have none, under the last label."""
    found: dict[str, str] = {}
    label = ""
    for line in lines_of(snapshot, answer, width):
        assert len(line) <= width
        label = line[:14].strip() if not line.startswith(" ") else label
        found[label] = f"{found.get(label, '')} {line[14:] if not line.startswith('  ') else line}".strip()
    return found


def changed(**fields: Any) -> Snapshot:
    return msgspec.structs.replace(a_snapshot(), **fields)


def test_every_part_of_the_snapshot_is_shown() -> None:
    seen = shown(a_snapshot(), details())
    assert seen["tykpy"] == "1.2.3, process 1, up 16 min 40 s"
    assert seen["state"] == "ready"
    assert seen["workers"] == "4 of 4 ready; replaced for: 3 crash, 2 hang, 1 recycle, 6 reload"
    assert seen["queue"] == "2 waiting, 3 under way, 1.5 KiB held"
    assert seen["dispatches"] == "10 taken, 7 answered, 1 failed"
    assert seen["rejected"] == "1 queue full"
    assert seen["connections"] == "1 grpc, 0 msgpackrpc, 3 streams"
    assert seen["store"] == "embedded, works"
    assert seen["events"] == "log: 1 delivered"
    assert (seen["last reload"], seen["last upgrade"]) == ("none", "none")
    assert seen["bundles"].startswith("1 of 2 loaded completely")
    assert "hook hook of hooks.py is not run, it killed workers: breaker open" in " ".join(seen["bundles"].split())
    assert "new: not loaded: not loaded yet" in seen["bundles"]


def test_why_a_broker_is_not_ready_is_said() -> None:
    snapshot = changed(not_ready=[NotReady("draining", "it drains"), NotReady("no_workers", "no worker is ready")])
    assert shown(snapshot, details())["state"] == "NOT READY: it drains; no worker is ready"


def test_last_reload_and_upgrade_are_shown() -> None:
    refused = {"ok": False, "why": "it would break\na.py: no\nb.py: no", "seconds": 0.25}
    seen = shown(a_snapshot(), details(reload=refused, upgrade={"ok": True, "pid": 7}))
    assert seen["last reload"] == "REFUSED in 0.25 s: it would break: a.py: no; b.py: no"
    assert seen["last upgrade"] == "ok, process 7 has taken over"
    seen = shown(a_snapshot(), details(reload={"ok": True, "seconds": 1.5}, upgrade={"ok": False, "why": "too late"}))
    assert (seen["last reload"], seen["last upgrade"]) == ("ok, in 1.50 s", "FAILED: too late")


def test_where_the_log_is_and_what_it_lost_is_shown() -> None:
    assert shown(a_snapshot(), details())["log"] == "standard error, level info"
    log = {"level": "debug", "seconds_left": 59.0, "file": "/var/log/tykpy.log"}
    seen = shown(changed(log_dropped=4), details(log=log))
    assert seen["log"] == "/var/log/tykpy.log, level debug for another 59 s; 4 records lost"
    assert shown(changed(log_dropped=4), None)["log"] == "4 records lost"
    assert "log" not in shown(a_snapshot(), None)


def test_without_an_answer_the_snapshot_is_enough() -> None:
    bundles = [BundleState("whole", "a", "loaded", 0, 1, 2, 2), BundleState("half", "b", "loaded", 0, 1, 2, 1)]
    seen = shown(changed(bundles=bundles), None)
    assert "does not answer; last seen" in seen["state"]
    assert "half: loaded by 1 of 2 workers" in seen["bundles"]
    assert "whole" not in seen["bundles"]


def test_long_and_hostile_names_fit_the_width() -> None:
    name = "x" * 300 + "\n\x1b[2Jstate        ready"
    bundles = [{"name": name, "problems": [name], "saved_copy": ""}]
    snapshot = changed(unloaded={name: name}, events={name: {"delivered": 1}}, not_ready=[NotReady("bundles", name)])
    for width in (40, 80, 120):
        text = "\n".join(lines_of(snapshot, details(bundles=bundles), width))
        assert "\x1b" not in text
        assert sum(line.startswith("state") for line in text.splitlines()) == 1
        assert max(map(len, text.splitlines())) <= width


def test_only_so_many_problems_are_shown() -> None:
    snapshot = changed(breakers=[], unloaded={f"bundle-{number:03}": "why" for number in range(MAX_PROBLEMS + 5)})
    lines = list(lines_of(snapshot, details(), 80))
    assert sum("not loaded: why" in line for line in lines) == MAX_PROBLEMS
    assert lines[-1] == "  and 5 more (tykpy hooks)"


def test_workers_have_a_row_each() -> None:
    worker = WorkerState(3, 1, 42, "ready", 1, 2, 1_234, 30 * 10**9, 0)
    snapshot = changed(time_ns=60 * 10**9, workers=[worker, msgspec.structs.replace(worker, slot=0)])
    assert [row[0] for row in worker_rows(snapshot)] == ["0", "3"]
    assert list(worker_rows(snapshot))[1] == ("3", "42", "ready", "1 min 0 s", "50%", "1,234", "1", "2")
