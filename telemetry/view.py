"""What an operator sees of a broker: rates and percentiles, for `tykpy top` and the admin page."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from tykpy.telemetry.buckets import BOUNDS_NS
from tykpy.telemetry.snapshot import HookSeries, Snapshot, no_counts

SAMPLES: Final = 30
"""Rates that are kept of each hook."""
UNKNOWN: Final = "(unknown)"
"""Shown in place of hooks that no bundle has."""
_NS_PER_S: Final = 1_000_000_000
_OK: Final = "OK"


class HookView(msgspec.Struct):
    """One hook, in the time of a view."""

    bundle: str
    hook: str
    rate: float
    """Dispatches per second."""
    p50: float | None
    """Of a whole dispatch, in seconds; None without dispatches."""
    p99: float | None
    errors: float
    """Percentage of dispatches with another code than OK."""
    busy: float
    """Time in which the hook ran, as a percentage of one worker; above 100 if several run it."""
    breaker: str
    """`open` or `half open`; empty if the hook is run as usual."""
    rates: list[float]
    """Its last rates, the newest one last."""


class View(msgspec.Struct):
    """A broker, over the seconds between two snapshots."""

    version: str
    pid: int
    uptime: float
    """Seconds."""
    age: float
    """Seconds since the event loop is known to have turned."""
    stuck: bool
    """Whether this is too long: the rest is from then."""
    seconds: float
    """Time between the snapshots; the first view is about the time since the start."""
    workers_ready: int
    workers_wanted: int
    not_ready: list[str]
    """Why the broker is not ready."""
    reloading: bool
    rate: float
    """Dispatches per second."""
    p50: float | None
    p99: float | None
    errors: float
    """Percentage of dispatches with another code than OK."""
    rejected: float
    """Dispatches per second that were not run."""
    waiting: int
    """Dispatches in the queue."""
    under_way: int
    store: str
    """Kind and state."""
    store_errors: int
    """Since the start."""
    events: dict[str, int]
    """By result, since the start; `waiting` is now."""
    log_dropped: int
    hooks: list[HookView]
    """Those that took the most time first."""


class Viewer:
    """Turns the snapshots of a broker into views, and remembers what it needs for the next one."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None
        self._view: View | None = None
        self._rates: dict[tuple[str, str], deque[float]] = {}

    def see(self, snapshot: Snapshot) -> View:
        """Return the view since the last snapshot, or since the start for the first one of a broker.

        A snapshot that was seen before has the same view, of another age.
        """
        last = self._last
        if last is not None and (last.pid, last.started) != (snapshot.pid, snapshot.started):
            last, self._rates = None, {}
        if self._view is None or last is None or last.time_ns != snapshot.time_ns:
            self._view = self._compare(last, snapshot)
        self._last = snapshot
        self._view.age, self._view.stuck = snapshot.age, snapshot.is_stuck
        return self._view

    def _compare(self, last: Snapshot | None, now: Snapshot) -> View:
        uptime = max(now.taken_at - now.started, 0.0)
        seconds = max(uptime if last is None else (now.time_ns - last.time_ns) / _NS_PER_S, 0.001)
        everything = _Sum()
        hooks: dict[tuple[str, str], _Sum] = {}
        for one in _differences(last.series if last else (), now.series):
            everything.add(one)
            hooks.setdefault((one.bundle, one.hook), _Sum()).add(one)
        rejected = sum(now.rejected.values()) - (sum(last.rejected.values()) if last else 0)
        return View(
            version=now.version,
            pid=now.pid,
            uptime=uptime,
            age=0.0,
            stuck=False,
            seconds=seconds,
            workers_ready=now.ready,
            workers_wanted=now.wanted,
            not_ready=[one.text for one in now.not_ready],
            reloading=now.reloading,
            rate=everything.count / seconds,
            p50=percentile(everything.counts, 0.5),
            p99=percentile(everything.counts, 0.99),
            errors=everything.error_percentage,
            rejected=max(rejected, 0) / seconds,
            waiting=now.waiting,
            under_way=now.under_way,
            store=f"{now.store.kind} {now.store.state}",
            store_errors=now.store.errors,
            events=_events(now),
            log_dropped=now.log_dropped,
            hooks=self._hooks(hooks, now, seconds),
        )

    def _hooks(self, sums: "dict[tuple[str, str], _Sum]", now: Snapshot, seconds: float) -> list[HookView]:
        breakers = {(one.bundle, one.hook): one.state for one in now.breakers}
        self._rates = {key: self._rates.get(key) or deque(maxlen=SAMPLES) for key in sums}
        views = []
        for key, one in sorted(sums.items(), key=lambda item: item[1].dispatch_ns, reverse=True):
            rates = self._rates[key]
            rates.append(one.count / seconds)
            views.append(
                HookView(
                    bundle=key[0],
                    hook=key[1] or UNKNOWN,
                    rate=rates[-1],
                    p50=percentile(one.counts, 0.5),
                    p99=percentile(one.counts, 0.99),
                    errors=one.error_percentage,
                    busy=100 * one.hook_ns / _NS_PER_S / seconds,
                    breaker=breakers.get(key, ""),
                    rates=list(rates),
                )
            )
        return views


def percentile(counts: Sequence[int], part: float) -> float | None:
    """Return the time, in seconds, that this part of a histogram's values is below; None for an empty one.

    Values are taken to be spread evenly within a bucket; the last one, which has no bound, gives the highest bound.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, seen, low = part * total, 0, 0
    for count, high in zip(counts, BOUNDS_NS, strict=False):
        if seen + count >= wanted and count:
            return (low + (high - low) * (wanted - seen) / count) / _NS_PER_S
        seen, low = seen + count, high
    return BOUNDS_NS[-1] / _NS_PER_S


class _Sum:
    """Dispatches of one hook, whatever became of them."""

    def __init__(self) -> None:
        self.counts = no_counts()
        self.failed = 0
        self.dispatch_ns = 0
        self.hook_ns = 0

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def error_percentage(self) -> float:
        return 100 * self.failed / self.count if self.failed else 0.0

    def add(self, series: HookSeries) -> None:
        self.counts = list(map(sum, zip(self.counts, series.dispatch_counts, strict=True)))
        self.failed += 0 if series.code == _OK else series.count
        self.dispatch_ns += series.dispatch_ns
        self.hook_ns += series.hook_ns


def _differences(before: Sequence[HookSeries], now: Sequence[HookSeries]) -> Iterator[HookSeries]:
    """Yield what was added to each series. One that has become smaller was begun anew."""
    known = {(one.bundle, one.hook, one.hook_type, one.code): one for one in before}
    for one in now:
        names = one.bundle, one.hook, one.hook_type, one.code
        last = known.get(names)
        if last is None or any(map(int.__lt__, one.dispatch_counts, last.dispatch_counts)):
            last = HookSeries(*names)
        counts = [new - old for new, old in zip(one.dispatch_counts, last.dispatch_counts, strict=True)]
        change = HookSeries(*names, counts, one.dispatch_ns - last.dispatch_ns)
        change.hook_ns = one.hook_ns - last.hook_ns
        yield change


def _events(now: Snapshot) -> dict[str, int]:
    total: dict[str, int] = {}
    for results in now.events.values():
        for result, count in results.items():
            total[result] = total.get(result, 0) + count
    return total
