"""Counts how dispatches end, and how long they take, per hook, hook type and code."""

from bisect import bisect_left
from collections.abc import Set
from time import time
from typing import Final

from tykpy.broker.codes import GrpcCode
from tykpy.broker.router.peek import HOOK_TYPES
from tykpy.telemetry.buckets import BOUNDS_NS
from tykpy.telemetry.snapshot import OTHER, ExampleTrace, HookSeries

MAX_SERIES: Final = 1_000
"""Series of all hooks; what comes after them is counted in series of the hook `other`."""
EVENT: Final = 2**31
"""Stands for the hook type of an event: no number that an Object's hook type can have (an int32)."""
_TYPE_NAMES: Final = {**dict(enumerate(HOOK_TYPES)), EVENT: "Event"}
_CODE_BITS: Final = 5

HookId = tuple[str, str]
"""Names of a bundle and a hook, as the workers describe them."""


def type_name(hook_type: int) -> str:
    """Return the name of a hook type as `Dispatch.hook_type` has it; numbers that Tyk does not know are digits."""
    return _TYPE_NAMES.get(hook_type) or str(hook_type)


class HookStats:
    """The series of one hook; all its `HookInfo`s share them, over reloads too."""

    __slots__ = ("_all", "id", "series")

    def __init__(self, every: "AllHookStats", hook: HookId) -> None:
        self._all = every
        self.id = hook
        self.series: dict[int, HookSeries] = {}
        """By hook type and code. The series of `other` are here too, where there was no room for others."""

    def count(self, hook_type: int, code: int, dispatch_ns: int, hook_ns: int | None) -> None:
        """Count a dispatch that has ended; `hook_ns`: how long its hook ran, by the worker's account, None: not run."""
        series = self.series.get(hook_type << _CODE_BITS | code)
        if series is None:
            series = self._all.open(self, hook_type, code)
        wait_ns = dispatch_ns
        if hook_ns is not None:
            if hook_ns > dispatch_ns:
                hook_ns = dispatch_ns
            wait_ns -= hook_ns
            series.hook_ns += hook_ns
            series.hook_counts[bisect_left(BOUNDS_NS, hook_ns)] += 1
        series.dispatch_ns += dispatch_ns
        series.dispatch_counts[bisect_left(BOUNDS_NS, dispatch_ns)] += 1
        series.wait_counts[bisect_left(BOUNDS_NS, wait_ns)] += 1

    def keep_trace(self, hook_type: int, code: int, dispatch_ns: int, trace_id: str) -> None:
        """Keep the trace of a dispatch that was counted, as an example of its bucket."""
        series = self.series.get(hook_type << _CODE_BITS | code) or self._all.open(self, hook_type, code)
        series.traces[bisect_left(BOUNDS_NS, dispatch_ns)] = ExampleTrace(trace_id, dispatch_ns, time())


class AllHookStats:
    """The series of all hooks. Names come from descriptions of bundles only, never from what a peer sends."""

    def __init__(self) -> None:
        self.dropped = 0
        """Series that there was no room for."""
        self.unknown = HookStats(self, ("", ""))
        """Dispatches for hooks that no worker has described, and those that do not decode."""
        self._other = HookStats(self, (OTHER, OTHER))
        self._hooks: dict[HookId, HookStats] = {}
        self._opened = 0

    def of(self, hook: HookId) -> HookStats:
        """Return the series of a hook that workers have described."""
        stats = self._hooks.get(hook)
        if stats is None:
            stats = self._hooks[hook] = HookStats(self, hook)
        return stats

    def keep(self, described: Set[HookId]) -> None:
        """Drop hooks that are not described any more if they were never called or if there are too many series."""
        full = self._opened >= MAX_SERIES
        for hook in self._hooks.keys() - described:
            if full or not self._hooks[hook].series:
                del self._hooks[hook]
        if full:
            self._make_room()

    def series(self) -> list[HookSeries]:
        """Return all series, which count on."""
        own = [one for stats in self._hooks.values() for one in self._own(stats).values()]
        return [*self.unknown.series.values(), *own, *self._other.series.values()]

    def open(self, stats: HookStats, hook_type: int, code: int) -> HookSeries:
        """Return the series of a hook for a hook type, which may be any number, and a code; make it if need be."""
        if hook_type not in _TYPE_NAMES:
            hook_type = 0
        key = hook_type << _CODE_BITS | code
        found = stats.series.get(key)
        if found is None:
            is_own = stats is self.unknown or stats is self._other
            if not is_own and self._opened >= MAX_SERIES:
                self.dropped += 1
                found = self.open(self._other, hook_type, code)
            else:
                self._opened += not is_own
                found = HookSeries(*stats.id, _TYPE_NAMES[hook_type], GrpcCode(code).name)
            stats.series[key] = found
        return found

    def _make_room(self) -> None:
        """Count what is left, and let hooks that were counted in `other` have series of their own again."""
        for stats in self._hooks.values():
            stats.series = self._own(stats)
        self._opened = sum(len(stats.series) for stats in self._hooks.values())

    def _own(self, stats: HookStats) -> dict[int, HookSeries]:
        others = self._other.series
        return {key: one for key, one in stats.series.items() if one is not others.get(key)}
