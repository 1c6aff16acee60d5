"""When the queue is one that does not go away, and which dispatches have then waited too long in it.

A burst may wait as long as its deadlines allow. Where more comes than the workers can do, first in first out would
have every dispatch wait until just before its deadline, also those that come when the load is long over.
"""

from collections.abc import Sequence
from typing import Final

from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.queue import PendingQueue

STANDING_NS: Final = 500_000_000
"""A queue that has never been empty for so long is no burst."""
HOOK_TIMES: Final = 4
"""A dispatch may wait as long as its hook runs so many times: long hooks have long queues without any overload."""


class Overload:
    """Limits the age of what waits. Times are CLOCK_MONOTONIC ns; `look` is called at every tick of the router."""

    __slots__ = ("_clear_ns", "_wait_ns")

    def __init__(self, wait_ns: int) -> None:
        """`wait_ns`: how long a dispatch may wait in a standing queue; 0: as long as its deadline."""
        self._wait_ns = wait_ns
        self._clear_ns = [0]

    def start(self, now_ns: int) -> None:
        """Ticks begin: nothing waited before."""
        self._clear_ns = [now_ns]

    def look(self, pending: PendingQueue, saturated: Sequence[bool], now_ns: int) -> list[Dispatch]:
        """Those that have waited too long. `saturated`: whether no worker takes more, of all and of each group.

        Without a worker that is ready nothing is too much: it waits for one. Each group's queue stands for itself.
        """
        if not pending.waiting or not self._wait_ns:
            self._clear_ns = [now_ns]
            return []
        known = self._clear_ns[: pending.groups]
        self._clear_ns = known + [now_ns] * (pending.groups - len(known))
        return [
            one for group in range(pending.groups) for one in self._look_at(pending, group, saturated[group], now_ns)
        ]

    def _look_at(self, pending: PendingQueue, group: int, saturated: bool, now_ns: int) -> list[Dispatch]:
        if not saturated or not pending.waiting_of(group):
            self._clear_ns[group] = now_ns
        if now_ns - self._clear_ns[group] < STANDING_NS:
            return []
        return [one for one in pending.taken_before(now_ns - self._wait_ns, group) if self._is_too_old(one, now_ns)]

    def _is_too_old(self, dispatch: Dispatch, now_ns: int) -> bool:
        assert dispatch.hook is not None
        return now_ns - dispatch.taken_ns > max(self._wait_ns, HOOK_TIMES * dispatch.hook.times.expected_ns)
