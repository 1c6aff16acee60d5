"""Act on time: deadlines, a queue that does not empty, hooks that hang, workers that do not answer.

The clock ticks as long as anything is under way. Times are CLOCK_MONOTONIC ns.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from tykpy.broker.codes import GrpcCode
from tykpy.broker.errors import DispatchError, Rejection
from tykpy.broker.faults import Periodic, each
from tykpy.broker.router.deadlines import TICK_SECONDS, DeadlineWheel
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.link import Link, LinkWatcher
from tykpy.broker.router.link_pool import LinkPool
from tykpy.broker.router.outcomes import Outcomes
from tykpy.broker.router.queue import PendingQueue
from tykpy.ipc.errors import IpcError
from tykpy.ipc.frame import Status
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.telemetry.records import counted

log = logging.getLogger("tykpy.router")

STALL_NS: Final = 10_000_000
"""A worker that has not answered for this long gives back what it has not started."""
SILENCE_NS: Final = 200_000_000
"""A worker that has started none of its dispatches for this long is pinged."""
STANDING_NS: Final = 500_000_000
"""A queue that has not been empty for this long is no burst."""
HOOK_TIMES: Final = 4
"""A dispatch may wait for this many running times of its hook: long hooks have long queues without any overload."""
ADVICE: Final = (
    "hooks that compute need more CPUs and --workers; "
    "hooks that wait --threads auto, a higher --threads-max, or async def"
)


class Overload:
    """Limits how long dispatches wait in a queue that does not empty.

    A burst may wait as long as its deadlines allow. But under lasting overload, first in, first out would let every
    dispatch wait until just before its deadline, even those that arrive long after the load has dropped.
    """

    __slots__ = ("_clear_ns", "_wait_ns")

    def __init__(self, wait_ns: int) -> None:
        """`wait_ns`: how long a dispatch may wait in a standing queue; 0: as long as its deadline."""
        self._wait_ns = wait_ns
        self._clear_ns = [0]
        """For each group of workers, when its queue was last empty or its workers took more."""

    def start(self, now_ns: int) -> None:
        """Start observing; nothing waited before."""
        self._clear_ns = [now_ns]

    def look(self, pending: PendingQueue, saturated: Sequence[bool], now_ns: int) -> list[Dispatch]:
        """Return the dispatches that have waited too long; call this at every tick.

        `saturated`: for all workers and for each group, whether it has workers and none of them takes more. Without a
        ready worker no wait is too long: dispatches wait for one. Each group's queue is judged by itself.
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


class Placement(Protocol):
    """The part of the router that the clock uses."""

    pool: LinkPool
    watcher: LinkWatcher

    def abandon(self, dispatch: Dispatch, code: GrpcCode) -> None:
        """Complete a dispatch for which nobody waits any more; it does not run unless it has started."""

    def take_back(self, link: Link) -> None:
        """Give the dispatches that a worker has not started to others."""

    def place_waiting(self) -> None:
        """Send as much of the queue as the workers take."""

    def saturated_groups(self) -> list[bool]:
        """Return, for all workers and for each group, whether it has workers and none of them takes more."""

    def can_run(self, dispatch: Dispatch) -> bool:
        """Return whether a worker that is ready has loaded the hook."""


class Clock:
    """The router's clock."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        queue_wait_ns: int,
        pending: PendingQueue,
        deadlines: DeadlineWheel,
        outcomes: Outcomes,
        placement: Placement,
    ) -> None:
        """`queue_wait_ns`: how long a dispatch may wait in an overload."""
        self.ticking = False
        self._timer = Periodic(loop, TICK_SECONDS, self._tick)
        self._pending = pending
        self._deadlines = deadlines
        self._outcomes = outcomes
        self._placement = placement
        self._overload = Overload(queue_wait_ns)
        self._shedding = QuietLog(log)

    def start(self, now: int) -> None:
        """Start ticking, because a first dispatch is under way."""
        self.ticking = True
        self._overload.start(now)
        self._timer.start()

    def relieved(self, link: Link) -> None:
        """Note that a worker has let another thread lead, as requested: its running hooks have only waited so far.

        A worker that hangs gets nothing more: the signal to write its stacks lets other threads run for a moment.
        """
        if not link.asked or link.overdue:
            return
        now = time.monotonic_ns()
        for dispatch in link.running():
            elapsed = now - max(link.channel.execution_started_ns(dispatch.seq), dispatch.taken_ns)
            if elapsed > STALL_NS:
                link.waits(dispatch, elapsed)
        link.wake()
        self._placement.place_waiting()

    def _tick(self) -> None:
        now = time.monotonic_ns()
        each(lambda look: look(now), (self._look_at_deadlines, self._look_at_queue, self._look_at_workers))
        if not (self._outcomes.under_way or self._deadlines):
            self.ticking = False
            self._timer.stop()

    # -- dispatches ---

    def _look_at_deadlines(self, now: int) -> None:
        each(lambda dispatch: self._past_deadline(dispatch, now), self._deadlines.expired(now))

    def _past_deadline(self, dispatch: Dispatch, now: int) -> None:
        if dispatch.completed:
            self._look_for_hang(dispatch, now)
        else:
            self._expire(dispatch, now)

    def _expire(self, dispatch: Dispatch, now: int) -> None:
        link, seq = dispatch.link, dispatch.seq
        where = f"in {link}" if link is not None else "in the queue"
        if link is None and not self._placement.can_run(dispatch):
            where += ": no worker that is ready has loaded its bundle (tykpy hooks)"
        self._outcomes.counters.expired += 1
        try:
            self._placement.abandon(dispatch, GrpcCode.DEADLINE_EXCEEDED)
        finally:
            dispatch.fail(DispatchError(Status.EXPIRED, f"deadline exceeded {where} ({dispatch.name})"))
        if isinstance(link, Link) and _could_have_run(link, seq) and not _has_progressed(link, dispatch, now):
            self._silence(link, now)

    def _look_for_hang(self, dispatch: Dispatch, now: int) -> None:
        link = dispatch.link
        if not isinstance(link, Link):
            return
        # A dispatch that had to wait has its full time from its start on: a busy worker does not hang. Nothing is
        # started after its deadline, whatever the worker says.
        started = min(link.channel.execution_started_ns(dispatch.seq), dispatch.limit_ns)
        limit = started + dispatch.limit_ns - dispatch.taken_ns
        if now < limit:
            dispatch.deadline_ns = limit
            self._deadlines.add(dispatch)
        else:
            link.overdue.add(dispatch.seq)
            self._placement.watcher.overdue(link)

    def _look_at_queue(self, now: int) -> None:
        too_old = self._overload.look(self._pending, self._placement.saturated_groups(), now)
        each(lambda dispatch: self._shed(dispatch, now), too_old)

    def _shed(self, dispatch: Dispatch, now: int) -> None:
        self._outcomes.counters.shed += 1
        waited = (now - dispatch.taken_ns) / 1e9
        workers = counted(len(self._placement.pool), "worker")
        message = f"waited {waited:.1f} s, more comes than {workers} can do (--queue-wait; {dispatch.name})"
        self._outcomes.fail(dispatch, DispatchError(Status.OVERLOADED, message, Rejection.SHED))
        self._shedding.log(logging.WARNING, dispatch.name, f"calls of {dispatch.name} fail: {message}; {ADVICE}")

    # -- workers ---

    def _look_at_workers(self, now: int) -> None:
        each(lambda link: self._look_at(link, now), self._placement.pool)

    def _look_at(self, link: Link, now: int) -> None:
        if not link.in_flight:
            return
        link.cpu.look(now)
        if now - link.progress_ns <= STALL_NS:
            return
        # It has not answered for a while. What it has not started may run elsewhere, and should if it runs nothing.
        if not link.channel.executing():
            if not link.stalled and now - link.progress_ns > SILENCE_NS:
                self._silence(link, now)
            return
        if not link.stalled:
            link.stalled = True
            self._placement.take_back(link)
        elif link.neglected_ns(now) > SILENCE_NS and link.has_free_thread():
            # A hook that waits and keeps the interpreter's lock, for example.
            link.neglectful = True
            self._placement.take_back(link)
        if link.learns and link.is_full and not link.asked and link.cpu.waits:
            # Its hooks have waited longer than ever before. It can run more if it answers.
            link.asked = True
            with suppress(IpcError):  # it is dead, which will be reported in a moment
                link.channel.control.send("lead", [dispatch.seq for dispatch in link.running()])

    def _silence(self, link: Link, now: int) -> None:
        """Give a worker nothing more until it shows a sign of life."""
        link.miss(now)
        link.silent = True
        self._placement.take_back(link)
        self._placement.watcher.silent(link)


def _could_have_run(link: Link, seq: int) -> bool:
    """Return whether a dispatch was not started although its worker had a thread for it."""
    return link.open and not link.silent and seq not in link.channel.executing() and link.has_free_thread()


def _has_progressed(link: Link, dispatch: Dispatch, now: int) -> bool:
    """Return whether the worker has answered other dispatches meanwhile: between two hooks a busy worker seems idle."""
    return now - link.progress_ns < (now - dispatch.taken_ns) // 2
