"""What time does to dispatches and workers: deadlines, a queue that does not go away, hooks that hang, workers that
answer nothing. Looked at in ticks, as long as anything is under way.
"""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final

from tykpy.broker.errors import DispatchError
from tykpy.broker.faults import Periodic, each
from tykpy.broker.router.deadlines import TICK_SECONDS, DeadlineWheel
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.link import Link
from tykpy.broker.router.outcomes import Outcomes
from tykpy.broker.router.overload import Overload
from tykpy.broker.router.placing import Placing
from tykpy.broker.router.queue import PendingQueue
from tykpy.ipc.errors import IpcError
from tykpy.ipc.frame import Status
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.router")

STALL_NS: Final = 10_000_000
"""A worker that has not answered for so long gives back what it has not started."""
SILENCE_NS: Final = 200_000_000
"""A worker that has started nothing of what it was given for so long is asked whether it lives."""
ADVICE: Final = (
    "hooks that compute need more CPUs and --workers; "
    "hooks that wait --threads auto, a higher --threads-max, or async def"
)


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
        self._timer = Periodic(loop, TICK_SECONDS, self._tick)
        self._pending = pending
        self._deadlines = deadlines
        self._outcomes = outcomes
        self._placing = placing
        self._overload = Overload(queue_wait_ns)
        self._shedding = QuietLog(log)

    def start(self, now: int) -> None:
        """A dispatch is under way, and nothing was before."""
        self.ticking = True
        self._overload.start(now)
        self._timer.start()

    def _tick(self) -> None:
        now = time.monotonic_ns()
        each(lambda look: look(now), (self._look_at_deadlines, self._look_at_queue, self._look_at_workers))
        if not (self._outcomes.under_way or self._deadlines):
            self.ticking = False
            self._timer.stop()

    def _look_at_deadlines(self, now: int) -> None:
        each(lambda dispatch: self._past_deadline(dispatch, now), self._deadlines.expired(now))

    def _look_at_queue(self, now: int) -> None:
        too_old = self._overload.look(self._pending, self._placing.saturated_groups(), now)
        each(lambda dispatch: self._shed(dispatch, now), too_old)

    def _look_at_workers(self, now: int) -> None:
        each(lambda link: self._look_at(link, now), self._placing.pool)

    def _past_deadline(self, dispatch: Dispatch, now: int) -> None:
        if dispatch.settled:
            self._hangs(dispatch, now)
        else:
            self._expire(dispatch, now)

    def _expire(self, dispatch: Dispatch, now: int) -> None:
        link, seq = dispatch.link, dispatch.seq
        where = _waits_for(dispatch) if dispatch.link is None else f"in {dispatch.link}"
        self._outcomes.counters.expired += 1
        try:
            self._placing.abandon(dispatch)
        finally:
            dispatch.fail(DispatchError(Status.EXPIRED, f"deadline exceeded {where} ({dispatch.name})"))
        if link is not None and _could_have_run(link, seq) and not _has_progressed(link, dispatch, now):
            self._silent(link, now)

    def _shed(self, dispatch: Dispatch, now: int) -> None:
        self._outcomes.counters.shed += 1
        waited = (now - dispatch.taken_ns) / 1e9
        workers = len(self._placing.pool)
        message = f"waited {waited:.1f} s, more comes than {workers} workers can do (--queue-wait; {dispatch.name})"
        self._outcomes.fail(dispatch, DispatchError(Status.OVERLOADED, message))
        self._shedding.log(logging.WARNING, dispatch.name, f"calls of {dispatch.name} fail: {message}; {ADVICE}")

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
        if not link.in_flight:
            return
        link.cpu.look(now)
        if now - link.progress_ns <= STALL_NS:
            return
        # It has not answered for a while. What it has not started may run elsewhere; if it runs nothing, it should.
        if not link.channel.executing():
            if not link.stalled and now - link.progress_ns > SILENCE_NS:
                self._silent(link, now)
            return
        if not link.stalled:
            link.stalled = True
            self._placing.take_back(link)
        elif link.neglected_ns(now) > SILENCE_NS and link.has_free_thread():
            # A hook that waits and keeps the interpreter's lock, for example.
            link.neglectful = True
            self._placing.take_back(link)
        if link.learns and link.is_full and not link.asked and link.cpu.waits:
            # Its hooks have never waited so long. That it can run more is known when it says so.
            link.asked = True
            with suppress(IpcError):  # it is dead, and that will be told in a moment
                link.channel.control.send("lead", [dispatch.seq for dispatch in link.running()])

    def relieved(self, link: Link) -> None:
        """A worker that was asked for it has let another thread lead: what it runs has waited so far.

        One that hangs gets nothing more: the signal that has it write its stacks lets it go on for a moment.
        """
        if not link.asked or link.overdue:
            return
        now = time.monotonic_ns()
        for dispatch in link.running():
            elapsed = now - max(link.channel.execution_started_ns(dispatch.seq), dispatch.taken_ns)
            if elapsed > STALL_NS:
                link.waits(dispatch, elapsed)
        link.wake()
        self._placing.place_waiting()

    def _silent(self, link: Link, now: int) -> None:
        link.miss(now)
        link.silent = True
        self._placing.take_back(link)
        self._placing.watcher.silent(link)


def _could_have_run(link: Link, seq: int) -> bool:
    """Whether a dispatch was not started although its worker has a thread for it."""
    return link.open and not link.silent and seq not in link.channel.executing() and link.has_free_thread()


def _has_progressed(link: Link, dispatch: Dispatch, now: int) -> bool:
    """Whether its worker has answered others meanwhile: between two hooks a busy worker looks like one that waits."""
    return now - link.progress_ns < (now - dispatch.taken_ns) // 2


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
