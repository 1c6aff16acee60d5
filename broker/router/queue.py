"""The broker's one queue of dispatches that wait for a worker: bounded, fair, and late to bind.

Two lanes, because a worker has room for many `async def` hooks while its threads are all busy; within a lane, auth
hooks go before others when both wait, since a request that is not let in costs nothing further.

Hooks that only some workers have loaded wait apart from all others, in two lanes more for each such group of workers:
the next dispatch of any lane is then one that each worker of its group can take.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from tykpy.broker.router.dispatch import Dispatch

BLOCKING: Final = 0
ASYNC: Final = 1
LANES: Final = 2
"""Lanes of a group. Lane `lane` of the group `n` is number `LANES * n + lane`; group 0 is that of all workers."""
SETTLED_ALLOWANCE: Final = 1024
"""Settled dispatches that may lie in the queue beyond the number of waiting ones before they are cleared out."""


class PendingQueue:
    """FIFO per lane and urgency. A dispatch that was settled while waiting is skipped, not searched for."""

    __slots__ = ("_lanes", "_settled", "in_lane", "waiting")

    def __init__(self) -> None:
        self._lanes: list[tuple[deque[Dispatch], deque[Dispatch]]] = []
        self._settled = 0
        self.in_lane: list[int] = []
        """Dispatches that wait, per lane."""
        self.waiting = 0
        """Dispatches that wait, those settled in the meantime not counted."""
        self.divide(1)

    def divide(self, groups: int) -> list[Dispatch]:
        """Make lanes for so many groups, and return all that waited, oldest first: it is to be pushed again."""
        waited = sorted(self, key=lambda dispatch: dispatch.taken_ns)
        self._lanes = [(deque(), deque()) for _ in range(LANES * groups)]
        self.in_lane = [0] * len(self._lanes)
        self.waiting = self._settled = 0
        return waited

    @property
    def groups(self) -> int:
        """Groups that have lanes of their own, that of all workers included."""
        return len(self._lanes) // LANES

    def waiting_of(self, group: int) -> int:
        """Dispatches of one group that wait."""
        return sum(self.in_lane[LANES * group : LANES * group + LANES])

    def push(self, dispatch: Dispatch, lane: int, *, urgent: bool) -> None:
        """Queue a new dispatch behind its equals."""
        self._lanes[lane][0 if urgent else 1].append(dispatch)
        self._count(dispatch, lane)

    def push_front(self, dispatch: Dispatch, lane: int, *, urgent: bool) -> None:
        """Queue a dispatch that had been given to a worker before: it is the oldest of its kind."""
        self._lanes[lane][0 if urgent else 1].appendleft(dispatch)
        self._count(dispatch, lane)

    def pop(self, lane: int) -> Dispatch | None:
        """The next dispatch of a lane, or None."""
        for queue in self._lanes[lane]:
            while queue:
                dispatch = queue.popleft()
                if not dispatch.settled:
                    self.waiting -= 1
                    self.in_lane[lane] -= 1
                    dispatch.waiting = False
                    return dispatch
                self._settled -= 1
        return None

    def pop_oldest(self, lanes: Sequence[int]) -> Dispatch | None:
        """The next dispatch of several lanes, or None: an urgent one if there is one, otherwise the oldest."""
        heads = [(head, lane) for lane in lanes if (head := self._head(lane)) is not None]
        if not heads:
            return None
        _, lane = min(heads, key=lambda one: (not one[0].urgent, one[0].taken_ns))
        return self.pop(lane)

    def __iter__(self) -> Iterator[Dispatch]:
        """All that wait now."""
        return iter([one for lane in self._lanes for queue in lane for one in queue if not one.settled])

    def taken_before(self, time_ns: int, group: int = 0) -> Iterator[Dispatch]:
        """Those of a group that wait since before this time: the first ones of each lane and urgency."""
        for lane in self._lanes[LANES * group : LANES * group + LANES]:
            for queue in lane:
                for dispatch in queue:
                    if dispatch.taken_ns >= time_ns:
                        break
                    if not dispatch.settled:
                        yield dispatch

    def forget(self, dispatch: Dispatch, lane: int) -> None:
        """A waiting dispatch was settled where it stands."""
        dispatch.waiting = False
        self.waiting -= 1
        self.in_lane[lane] -= 1
        self._settled += 1
        if self._settled > self.waiting + SETTLED_ALLOWANCE:
            self._clear_out()

    def _head(self, lane: int) -> Dispatch | None:
        for queue in self._lanes[lane]:
            while queue:
                if not queue[0].settled:
                    return queue[0]
                queue.popleft()
                self._settled -= 1
        return None

    def _count(self, dispatch: Dispatch, lane: int) -> None:
        dispatch.waiting = True
        self.waiting += 1
        self.in_lane[lane] += 1

    def _clear_out(self) -> None:
        for lane in self._lanes:
            for queue in lane:
                kept = [dispatch for dispatch in queue if not dispatch.settled]
                queue.clear()
                queue.extend(kept)
        self._settled = 0
