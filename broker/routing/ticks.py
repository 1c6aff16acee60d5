"""What time does to dispatches and workers: deadlines, a queue that does not go away, hooks that hang, workers that
answer nothing. Looked at in ticks, as long as anything is under way.
"""

import asyncio
import time
from typing import Final

from broker.errors import DispatchError
from broker.routing.deadlines import TICK_SECONDS, DeadlineWheel
from broker.routing.dispatch import Dispatch
from broker.routing.link import Link
from broker.routing.outcomes import Outcomes
from broker.routing.overload import Overload
from broker.routing.pending import PendingQueue
from broker.routing.placing import Placing
from ipc.frame import Status

STALL_NS: Final = 10_000_000
"""A worker that has not answered for so long gives back what it has not started."""
SILENCE_NS: Final = 200_000_000
"""A worker that has started nothing of what it was given for so long is asked whether it lives."""


class Ticks:
    """The router's clock. Times are CLOCK_MONOTONIC ns."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        queue_wait_ns: int,
        pending: PendingQueue,
        deadlines: DeadlineWheel,
        outcomes: Outcomes,
        placing: Placing,
    ) -> None:
        """`queue_wait_ns`: how long a dispatch may wait in an overload."""
        self.ticking = False
        self._loop = loop
        self._pending = pending
        self._deadlines = deadlines
        self._outcomes = outcomes
        self._placing = placing
        self._overload = Overload(queue_wait_ns)

    def start(self, now: int) -> None:
        """A dispatch is under way, and nothing was before."""
        self._overload.start(now)
        self._tick_later()

    def _tick_later(self) -> None:
        self.ticking = True
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now = time.monotonic_ns()
        pool = self._placing.pool
        for dispatch in self._deadlines.expired(now):
            if dispatch.settled:
                self._hangs(dispatch, now)
            else:
                self._expire(dispatch)
        for dispatch in self._overload.look(self._pending, self._placing.ready_of_groups(), now):
            self._shed(dispatch, now)
        for link in pool:
            if link.in_flight and now - link.progress_ns > STALL_NS and not link.stalled:
                self._look_at(link, now)
        self.ticking = False
        if self._outcomes.under_way or self._deadlines:
            self._tick_later()

    def _expire(self, dispatch: Dispatch) -> None:
        where = _waits_for(dispatch) if dispatch.link is None else f"in {dispatch.link}"
        self._outcomes.counters.expired += 1
        self._placing.abandon(dispatch)
        dispatch.fail(DispatchError(Status.EXPIRED, f"deadline exceeded {where} ({dispatch.name})"))

    def _shed(self, dispatch: Dispatch, now: int) -> None:
        self._outcomes.counters.shed += 1
        waited = (now - dispatch.taken_ns) / 1e9
        workers = len(self._placing.pool)
        message = f"waited {waited:.1f} s, more comes than {workers} workers can do (--queue-wait)"
        self._outcomes.fail(dispatch, DispatchError(Status.OVERLOADED, message))

    def _hangs(self, dispatch: Dispatch, now: int) -> None:
        link = dispatch.link
        if link is None:
            return
        limit = _hang_limit(dispatch, link)
        if now < limit:
            dispatch.deadline_ns = limit
            self._deadlines.add(dispatch)
        else:
            link.overdue.add(dispatch.seq)
            self._placing.watcher.overdue(link)

    def _look_at(self, link: Link, now: int) -> None:
        # It has not answered for a while. What it has not started may run elsewhere; if it runs nothing, it should.
        if link.channel.executing():
            link.stalled = True
            self._placing.take_back(link)
        elif now - link.progress_ns > SILENCE_NS:
            link.silent = True
            self._placing.take_back(link)
            self._placing.watcher.silent(link)


def _waits_for(dispatch: Dispatch) -> str:
    links = dispatch.hook.links if dispatch.hook is not None else None
    if links is None or any(link.open for link in links):
        return "in the queue"
    return "in the queue: no worker that is ready has loaded its bundle (tykpy hooks)"


def _hang_limit(dispatch: Dispatch, link: Link) -> int:
    # One that had to wait has its whole time from its start: a worker that is busy does not hang. Nothing is
    # started after its deadline, whatever the worker says of it.
    started = min(link.channel.execution_started_ns(dispatch.seq), dispatch.limit_ns)
    return started + dispatch.limit_ns - dispatch.taken_ns
