"""The broker's one queue of dispatches that wait for a worker: fair, and bounded by the router.

There are two lanes, because a worker has room for many `async def` hooks while its threads are all busy. Within a lane,
auth hooks go first, since a request that they reject costs nothing further.

Hooks that only some workers have loaded wait separately, in two more lanes for each such group of workers: every worker
of a group can take the next dispatch of the group's lanes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import LANES

COMPLETED_ALLOWANCE: Final = 1024
"""Completed dispatches that may lie in the queue beyond the number of waiting ones before they are cleared out."""


class PendingQueue:
    """FIFO per lane and urgency. A dispatch that was completed while waiting is skipped, not searched for."""

    __slots__ = ("_completed", "_lanes", "in_lane", "waiting")

    def __init__(self) -> None:
        self._lanes: list[tuple[deque[Dispatch], deque[Dispatch]]] = []
        """For each lane urgent dispatches, then others."""
        self._completed = 0
        self.in_lane: list[int] = []
        """Dispatches that wait, per lane."""
        self.waiting = 0
        """Dispatches that wait; completed ones are not counted."""
        self.divide(1)

    def divide(self, groups: int) -> list[Dispatch]:
        """Create lanes for this many groups; return all waiting dispatches, oldest first, to be pushed again."""
        waited = sorted(self, key=lambda dispatch: dispatch.taken_ns)
        self._lanes = [(deque(), deque()) for _ in range(LANES * groups)]
        self.in_lane = [0] * len(self._lanes)
        self.waiting = self._completed = 0
        return waited

    @property
    def groups(self) -> int:
        """The number of groups with lanes of their own, including the group of all workers."""
        return len(self._lanes) // LANES

    def waiting_of(self, group: int) -> int:
        """Return the number of waiting dispatches of one group."""
        return sum(self.in_lane[LANES * group : LANES * group + LANES])

    def push(self, dispatch: Dispatch) -> None:
        """Queue a new dispatch behind its equals."""
        self._lanes[self._count(dispatch)][0 if dispatch.urgent else 1].append(dispatch)

    def push_front(self, dispatch: Dispatch) -> None:
        """Queue a dispatch that a worker had before: it is the oldest of its kind."""
        self._lanes[self._count(dispatch)][0 if dispatch.urgent else 1].appendleft(dispatch)

    def pop(self, lane: int) -> Dispatch | None:
        """Take the next dispatch of a lane, or None if none waits."""
        dispatch = self._head(lane)
        if dispatch is not None:
            self._lanes[lane][0 if dispatch.urgent else 1].popleft()
            self.waiting -= 1
            self.in_lane[lane] -= 1
            dispatch.waiting = False
        return dispatch

    def pop_oldest(self, lanes: Sequence[int]) -> Dispatch | None:
        """Take the next dispatch of several lanes: an urgent one if there is one, otherwise the oldest."""
        heads = [(head, lane) for lane in lanes if (head := self._head(lane)) is not None]
        if not heads:
            return None
        _, lane = min(heads, key=lambda one: (not one[0].urgent, one[0].taken_ns))
        return self.pop(lane)

    def __iter__(self) -> Iterator[Dispatch]:
        """Iterate over all waiting dispatches."""
        return iter([one for lane in self._lanes for queue in lane for one in queue if not one.completed])

    def taken_before(self, time_ns: int, group: int = 0) -> Iterator[Dispatch]:
        """Return a group's dispatches that were taken before this time: the first ones of each lane and urgency."""
        for lane in self._lanes[LANES * group : LANES * group + LANES]:
            for queue in lane:
                for dispatch in queue:
                    if dispatch.taken_ns >= time_ns:
                        break
                    if not dispatch.completed:
                        yield dispatch

    def forget(self, dispatch: Dispatch) -> None:
        """Stop counting a dispatch that was completed while it waited."""
        assert dispatch.hook is not None
        dispatch.waiting = False
        self.waiting -= 1
        self.in_lane[dispatch.hook.queue_lane] -= 1
        self._completed += 1
        if self._completed > self.waiting + COMPLETED_ALLOWANCE:
            self._clear_out()

    def _head(self, lane: int) -> Dispatch | None:
        """Return the next dispatch of a lane; drop completed ones before it."""
        for queue in self._lanes[lane]:
            while queue:
                if not queue[0].completed:
                    return queue[0]
                queue.popleft()
                self._completed -= 1
        return None

    def _count(self, dispatch: Dispatch) -> int:
        """Count a dispatch as waiting; return its lane."""
        assert dispatch.hook is not None
        lane = dispatch.hook.queue_lane
        dispatch.waiting = True
        self.waiting += 1
        self.in_lane[lane] += 1
        return lane

    def _clear_out(self) -> None:
        for lane in self._lanes:
            for queue in lane:
                waiting = [dispatch for dispatch in queue if not dispatch.completed]
                queue.clear()
                queue.extend(waiting)
        self._completed = 0
