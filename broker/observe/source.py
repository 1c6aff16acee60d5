"""Takes snapshots of the broker: cheap, in the event loop, and encoded at once."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any, Final, NamedTuple

from tykpy.broker.catalog.description import Description
from tykpy.broker.errors import Rejection
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.observe.readiness import Readiness
from tykpy.broker.parts import Parts
from tykpy.ipc.text import bounded
from tykpy.telemetry.log import lost_records
from tykpy.telemetry.snapshot import BreakerState, BundleState, Snapshot, WorkerState, encode_snapshot

MAX_BUNDLES: Final = 1_000
"""Bundles in a snapshot, and as many that are not loaded: it is taken twice a second, and each is a metric."""
MAX_TEXT: Final = 200
"""Longest text about a bundle, in characters."""
UNLOADED_SECONDS: Final = 2.0
"""Seconds between two looks for bundles that no worker has loaded: this reads the folder."""


class PackedSnapshot(NamedTuple):
    """An encoded snapshot."""

    data: bytes
    time_ns: int
    """When the snapshot was taken (CLOCK_MONOTONIC)."""


Watch = Callable[[Snapshot, Sequence[BundleState], Mapping[str, str]], object]


class SnapshotSource:
    """Takes the snapshots of one broker."""

    def __init__(self, parts: Parts, readiness: Readiness, watch: Watch) -> None:
        """`watch` is called with every new snapshot, all bundles, and all that are not loaded."""
        self.draining = False
        """Set as soon as the broker is told to stop."""
        self.last: PackedSnapshot | None = None
        """The newest snapshot. Any thread may read it."""
        self._parts = parts
        self._readiness = readiness
        self._watch = watch
        self._started = time.time()
        self._version = _own_version()
        self._description: Description | None = None
        self._bundles: list[BundleState] = []
        self._unloaded: dict[str, str] = {}
        self._unloaded_until = 0.0

    def renew(self) -> PackedSnapshot:
        """Take a snapshot, and keep it as the newest. Call this in the event loop."""
        snapshot = self._take()
        self._watch(snapshot, self._bundles, self._unloaded)
        self.last = PackedSnapshot(encode_snapshot(snapshot), snapshot.time_ns)
        return self.last

    def _take(self) -> Snapshot:
        parts = self._parts
        router, supervisor = parts.router, parts.supervisor
        now_ns = time.monotonic_ns()
        self._read_description()
        workers = list(supervisor.workers)
        stats = router.hooks.stats
        ready, draining = len(router.pool), self.draining or router.draining
        unloaded = self._unloaded_now(now_ns / 1e9)
        return Snapshot(
            version=self._version,
            pid=os.getpid(),
            started=self._started,
            taken_at=time.time(),
            time_ns=now_ns,
            wanted=supervisor.wanted,
            ready=ready,
            draining=draining,
            not_ready=self._readiness.judge(ready, self._bundles, unloaded, draining=draining),
            reloading=parts.reloader.under_way,
            workers=[
                WorkerState(
                    slot=worker.slot,
                    generation=worker.generation,
                    pid=worker.process.pid,
                    state=worker.phase.value,
                    in_flight=worker.in_flight,
                    threads=worker.threads,
                    handled=worker.handled,
                    busy_ns=worker.busy_ns(now_ns),
                    started_ns=int(worker.started * 1e9),
                )
                for worker in workers
            ],
            slots=supervisor.totals.describe(workers, now_ns),
            waiting=router.waiting,
            under_way=router.under_way,
            held_bytes=router.held,
            arriving_bytes=parts.arriving.bytes,
            dispatches=router.counters.as_dict(),
            rejected={
                **{str(reason): router.rejected[reason] for reason in Rejection},
                "too_large": parts.oversize.requests,
                "upload_bytes": parts.arriving.refused,
            },
            connections={"grpc": len(parts.grpc.connections), "msgpackrpc": len(parts.rpc.connections)},
            streams=parts.grpc.streams,
            http2_errors={code.name: parts.grpc.errors[code] for code in ErrorCode if code},
            reloads=parts.reloader.results,
            bundles=self._bundles[:MAX_BUNDLES],
            unloaded=dict(islice(unloaded.items(), MAX_BUNDLES)),
            breakers=self._breakers(),
            store=supervisor.store_state(),
            events=_flat(parts.events.describe()),
            log_dropped=lost_records() + supervisor.totals.log_lost(workers),
            series=stats.series(),
            dropped_series=stats.dropped,
        )

    def _read_description(self) -> None:
        description = self._parts.router.hooks.description
        if description is self._description:
            return
        self._description = description
        self._bundles = [
            BundleState(
                name=bundle["name"],
                version=bundle["version"],
                state=bundle["state"],
                faulty=len(bundle["faulty"]),
                hooks=len(bundle["hooks"]),
                workers=bundle["workers"],
                loaded_in=bundle["loaded_in"],
            )
            for bundle in description
        ]

    def _unloaded_now(self, now: float) -> dict[str, str]:
        discovery = self._parts.discovery
        if discovery is not None and now >= self._unloaded_until:
            self._unloaded_until = now + UNLOADED_SECONDS
            found = discovery.unloaded().items()
            self._unloaded = {bounded(name, MAX_TEXT): bounded(why, MAX_TEXT) for name, why in found}
        return self._unloaded

    def _breakers(self) -> list[BreakerState]:
        quarantine = self._parts.router.quarantine
        if not quarantine.active:
            return []
        return [
            BreakerState(one["bundle"], one["hook"], one["state"], one["left_s"])
            for one in quarantine.describe()["hooks"]
        ]


def _own_version() -> str:
    try:
        return version("tykpy")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _flat(events: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the counters of events by sink; those of the workers as a sink of their own."""
    sinks = {name: counts for name, counts in events.items() if isinstance(counts, dict)}
    return {"workers": {name: count for name, count in events.items() if name not in sinks}, **sinks}
