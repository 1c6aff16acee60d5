"""A snapshot of a broker with something in every field."""

from tykpy.telemetry.buckets import BUCKETS
from tykpy.telemetry.snapshot import BreakerState, BundleState, HookSeries, SlotState, Snapshot, StoreState, WorkerState


def a_snapshot(taken: int = 10, time_ns: int = 0, series: list[HookSeries] | None = None) -> Snapshot:
    """Make one; `series`: those of its hooks."""
    return Snapshot(
        version="1.2.3",
        pid=1,
        started=1_000.0,
        taken_at=2_000.0,
        time_ns=time_ns,
        wanted=4,
        ready=4,
        draining=False,
        not_ready=[],
        reloading=False,
        workers=[WorkerState(0, 1, 2, "ready", 1, 1, 7, 1_000_000, 0)],
        slots=[SlotState(0, 7, 1_000_000, {"crash": 3, "hang": 2, "oom": 0, "recycle": 1, "reload": 6})],
        waiting=2,
        under_way=3,
        held_bytes=1_024,
        arriving_bytes=512,
        dispatches={"taken": taken, "answered": 7, "failed": 1},
        rejected={"queue_full": 1},
        connections={"grpc": 1, "msgpackrpc": 0},
        streams=3,
        http2_errors={"PROTOCOL_ERROR": 1},
        reloads={"ok": 1, "refused": 0},
        bundles=[BundleState("hooks.py", "abc", "loaded", 0, 1, 4, 4)],
        unloaded={"new": "not loaded yet"},
        breakers=[BreakerState("hooks.py", "hook", "open", 3.5)],
        store=StoreState("embedded", "works", 0, {"store": [1_000, 1, *[0] * (BUCKETS - 1)]}),
        events={"log": {"delivered": 1}},
        log_dropped=0,
        series=series or [],
        dropped_series=0,
    )
