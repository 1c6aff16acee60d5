"""The broker's one queue of dispatches that wait for a worker: bounded, fair, and late to bind.

Two lanes, because a worker has room for many `async def` hooks while its threads are all busy; within a lane, auth
hooks go before others when both wait, since a request that is not let in costs nothing further.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from broker.routing.dispatch import Dispatch

BLOCKING: Final = 0
ASYNC: Final = 1
SETTLED_ALLOWANCE: Final = 1024
"""Settled dispatches that may lie in the queue beyond the number of waiting ones before they are cleared out."""


class PendingQueue:
    """FIFO per lane and urgency. A dispatch that was settled while waiting is skipped, not searched for."""

    __slots__ = ("_lanes", "_settled", "in_lane", "waiting")

    def __init__(self) -> None:
        self._lanes: tuple[tuple[deque[Dispatch], deque[Dispatch]], ...] = (
            (deque(), deque()),
            (deque(), deque()),
        )
        self._settled = 0
        self.in_lane = [0, 0]
        """Dispatches that wait, per lane."""
        self.waiting = 0
        """Dispatches that wait, those settled in the meantime not counted."""

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

    def __iter__(self) -> Iterator[Dispatch]:
        """All that wait now."""
        return iter([one for lane in self._lanes for queue in lane for one in queue if not one.settled])

    def taken_before(self, time_ns: int) -> Iterator[Dispatch]:
        """Those that wait since before this time: the first ones of each lane and urgency."""
        for lane in self._lanes:
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
