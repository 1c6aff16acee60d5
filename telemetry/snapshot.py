"""What a broker knows about itself at one moment: the one source of `/metrics`, `tykpy top` and the live segment.

The broker encodes a snapshot in its event loop; everybody else decodes the bytes, in another thread or process. Counts
are since the start of the broker, times in ns.
"""

import time
from collections.abc import Iterable
from typing import Final

import msgspec

from tykpy.telemetry.buckets import BUCKETS
from tykpy.telemetry.records import counted

STUCK_SECONDS: Final = 2.0
"""Age from which a snapshot shows that the event loop is stuck; one that works takes a snapshot twice a second."""
LOADED: Final = "loaded"
"""State of a bundle."""
OTHER: Final = "other"
"""Bundle and hook of what is counted together because there are too many series."""


def no_counts() -> list[int]:
    """Return an empty histogram."""
    return [0] * BUCKETS


class ExampleTrace(msgspec.Struct, array_like=True, gc=False):
    """The trace of one dispatch, as an example of those in its bucket."""

    trace_id: str
    dispatch_ns: int
    ended: float
    """Unix time."""


class HookSeries(msgspec.Struct, array_like=True, gc=False):
    """How dispatches of one hook ended that have the same hook type and code.

    `wait_ns` is what is left of a dispatch's time without its hook: the broker's queue, the worker's ring, and tykpy.
    """

    bundle: str
    hook: str
    hook_type: str
    """A name of `coprocess.HookType`, or `Event`."""
    code: str
    """The name of a gRPC code, whatever the protocol."""
    dispatch_counts: list[int] = msgspec.field(default_factory=no_counts)
    """Per bucket: time from taking a dispatch to its outcome."""
    dispatch_ns: int = 0
    wait_counts: list[int] = msgspec.field(default_factory=no_counts)
    hook_counts: list[int] = msgspec.field(default_factory=no_counts)
    """Time of the hook. Dispatches whose hook was not run are not in it."""
    hook_ns: int = 0
    traces: dict[int, ExampleTrace] = msgspec.field(default_factory=dict)
    """The last sampled dispatch by bucket of `dispatch_counts`."""

    @property
    def count(self) -> int:
        """Dispatches."""
        return sum(self.dispatch_counts)

    @property
    def wait_ns(self) -> int:
        """Sum of the times that dispatches waited."""
        return self.dispatch_ns - self.hook_ns

    def merge(self, other: "HookSeries") -> None:
        """Add the counts of another series."""
        for mine, others in (
            (self.dispatch_counts, other.dispatch_counts),
            (self.wait_counts, other.wait_counts),
            (self.hook_counts, other.hook_counts),
        ):
            mine[:] = map(sum, zip(mine, others, strict=True))
        self.dispatch_ns += other.dispatch_ns
        self.hook_ns += other.hook_ns
        self.traces |= other.traces


class WorkerState(msgspec.Struct, gc=False):
    """One worker process."""

    slot: int
    generation: int
    pid: int
    state: str
    """A value of `WorkerPhase`: starting, standby, ready, leaving."""
    in_flight: int
    threads: int
    handled: int
    """Dispatches that it has answered."""
    busy_ns: int
    """Time in which it had at least one dispatch."""
    started_ns: int
    """CLOCK_MONOTONIC."""


class SlotState(msgspec.Struct, gc=False):
    """What all workers of one slot did, including those that have ended."""

    slot: int
    handled: int
    busy_ns: int
    restarts: dict[str, int]
    """Replaced workers by reason: crash, hang, oom, recycle, reload."""


class BundleState(msgspec.Struct, gc=False):
    """A bundle as the workers have loaded it."""

    name: str
    version: str
    """Hash of its files."""
    state: str
    """`loaded`, or why not."""
    faulty: int
    """Hooks that cannot be used."""
    hooks: int
    workers: int
    """Workers that serve."""
    loaded_in: int
    """Those of them that have loaded it."""

    @property
    def flaw(self) -> str:
        """What keeps it from being loaded completely, by all workers; empty if it is."""
        if self.state != LOADED:
            return self.state
        if self.faulty:
            return f"loaded without {self.faulty} of its hooks"
        return "" if self.loaded_in == self.workers else f"loaded by {self.loaded_in} of {self.workers} workers"


class BreakerState(msgspec.Struct, gc=False):
    """A hook that is not run because it killed workers."""

    bundle: str
    """Empty if no worker has the hook."""
    hook: str
    state: str
    """`open` or `half open`."""
    left_s: float
    """Until it is tried again."""


class StoreState(msgspec.Struct, gc=False):
    """The storage of plugins' values."""

    kind: str
    """`embedded` or `redis`."""
    state: str
    """`unused`, `works` or `fails`."""
    errors: int
    operations: dict[str, list[int]]
    """By operation, store and fetch: the sum of its times in ns, then its calls per bucket."""


class NotReady(msgspec.Struct, gc=False):
    """A reason why a broker should not be sent calls."""

    reason: str
    """`draining`, `no_workers` or `bundles`; over HTTP also `event_loop`."""
    text: str
    """The same for people."""


class Snapshot(msgspec.Struct, gc=False):
    """One broker."""

    version: str
    pid: int
    started: float
    """Unix time."""
    taken_at: float
    """Unix time of this snapshot."""
    time_ns: int
    """Of this snapshot, CLOCK_MONOTONIC: the event loop turned then."""

    wanted: int
    """Workers that there should be."""
    ready: int
    draining: bool
    not_ready: list[NotReady]
    """Empty if the broker is ready."""
    reloading: bool
    workers: list[WorkerState]
    slots: list[SlotState]

    waiting: int
    """Dispatches in the queue."""
    under_way: int
    """Dispatches taken and not completed, including those that wait."""
    held_bytes: int
    """Bytes of them."""
    arriving_bytes: int
    """Bytes of unfinished requests."""
    dispatches: dict[str, int]
    """By what became of them: taken, answered, failed, cancelled, expired, refused, shed, redispatched, late."""
    rejected: dict[str, int]
    """Dispatches that were not run, by reason."""

    connections: dict[str, int]
    """Open ones by protocol: grpc, msgpackrpc."""
    streams: int
    """Open ones of HTTP/2."""
    http2_errors: dict[str, int]
    """Errors of peers by HTTP/2 code: connections that were ended, and streams that were reset."""

    reloads: dict[str, int]
    """By result: ok, refused."""
    bundles: list[BundleState]
    unloaded: dict[str, str]
    """Bundles in the folder that no worker has loaded, and why."""
    breakers: list[BreakerState]
    store: StoreState
    events: dict[str, dict[str, int]]
    """By sink and result; `waiting` ones are not delivered yet."""
    log_dropped: int
    """Records of the log that were lost, by the broker and its workers."""

    series: list[HookSeries]
    dropped_series: int
    """Series that are counted in `other` because there are too many."""

    @property
    def age(self) -> float:
        """Seconds since it was taken."""
        return (time.monotonic_ns() - self.time_ns) / 1e9

    @property
    def is_stuck(self) -> bool:
        """Whether the broker's event loop has not turned for so long that it is not at work."""
        return self.age > STUCK_SECONDS

    @property
    def is_of_this_version(self) -> bool:
        """Whether its histograms have the buckets of this program: the broker may be older, or newer."""
        return all(len(one.dispatch_counts) == BUCKETS for one in self.series)

    @property
    def restarts(self) -> dict[str, int]:
        """Replaced workers by reason."""
        total: dict[str, int] = {}
        for slot in self.slots:
            for reason, count in slot.restarts.items():
                total[reason] = total.get(reason, 0) + count
        return total

    def __str__(self) -> str:
        """Return the most important numbers as text."""
        counts, restarts = self.dispatches, self.restarts
        restarted = sum(restarts.get(reason, 0) for reason in ("crash", "hang", "oom"))
        return (
            f"pid {self.pid}, {counted(self.ready, 'worker')} ready"
            f", {counted(self.waiting, 'dispatch', 'dispatches')} waiting, {self.under_way} under way"
            f"; {counts['taken']} taken, {counts['answered']} answered, {counts['failed']} failed"
            f"; {counted(restarted, 'worker')} restarted"
        )


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Snapshot).decode


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Encode a snapshot."""
    return _encode(snapshot)


def shrink_snapshot(packed: bytes, limit: int) -> bytes:
    """Return an encoded snapshot in at most `limit` bytes, to be shown: its counters may fall from one to the next.

    If need be omit the traces, then merge the series with the fewest dispatches, then omit bundles.
    """
    if len(packed) <= limit:
        return packed
    snapshot = _decode(packed)
    for one in snapshot.series:
        one.traces = {}
    packed = _encode(snapshot)
    while len(packed) > limit and snapshot.series:
        snapshot.series = _halved(snapshot.series)
        packed = _encode(snapshot)
    if len(packed) > limit:
        # Names of bundles have up to 2 KiB each.
        snapshot.bundles, snapshot.unloaded, snapshot.breakers = [], {}, []
        packed = _encode(snapshot)
    return packed


def decode_snapshot(packed: bytes) -> Snapshot:
    """Decode a snapshot, with one series for each set of names.

    A bundle and hook may be called `other`, as are series that were merged. Raises ValueError if it is not one of this
    version of tykpy.
    """
    snapshot = _decode(packed)
    snapshot.series = _merged(snapshot.series)
    return snapshot


def _merged(series: Iterable[HookSeries]) -> list[HookSeries]:
    found: dict[tuple[str, ...], HookSeries] = {}
    for one in series:
        known = found.setdefault((one.bundle, one.hook, one.hook_type, one.code), one)
        if known is not one:
            known.merge(one)
    return list(found.values())


def _halved(series: list[HookSeries]) -> list[HookSeries]:
    """Merge the half with the fewest dispatches into one series per hook type and code."""
    ordered = sorted(series, key=lambda one: one.count, reverse=True)
    kept = ordered[: len(ordered) // 2]
    merged: dict[tuple[str, str], HookSeries] = {}
    for one in ordered[len(kept) :]:
        key = one.hook_type, one.code
        merged.setdefault(key, HookSeries(OTHER, OTHER, *key)).merge(one)
    return kept + list(merged.values()) if len(merged) < len(ordered) - len(kept) else kept
