"""The router: decide which worker runs a dispatch and when, and what the caller is told if none does.

There is one bounded queue. A worker is chosen only when it can start the dispatch. Every dispatch has a deadline and
exactly one outcome. Dispatches in flight are keyed by worker and sequence number, so a late answer matches none.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

from tykpy.broker.arriving import HELD_BYTES
from tykpy.broker.codes import GrpcCode
from tykpy.broker.end_of_turn import EndOfTurn
from tykpy.broker.errors import DispatchError, Rejection
from tykpy.broker.faults import attempt, each, report
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.broker.router.clock import Clock
from tykpy.broker.router.deadlines import DeadlineWheel
from tykpy.broker.router.deaths import Death, Quarantine, final_error
from tykpy.broker.router.dispatch import Dispatch, DispatchObserver, DispatchTracer
from tykpy.broker.router.hook_info import ASYNC, BLOCKING, LANES, WHOLE
from tykpy.broker.router.hook_stats import HookStats
from tykpy.broker.router.hook_table import UNRESTRICTED, HookTable, Restrictions
from tykpy.broker.router.link import Link, LinkWatcher
from tykpy.broker.router.link_pool import LinkPool
from tykpy.broker.router.outcomes import Counters, Outcomes
from tykpy.broker.router.queue import PendingQueue
from tykpy.ipc.errors import IpcError, MessageTooLargeError, RingCorruptError, RingFullError, SpillClosedError
from tykpy.ipc.frame import Status
from tykpy.telemetry.records import counted

RESTRICTED_SHARE: Final = 2
"""Dispatches that only some workers can run may fill one half of the queue: the other half is for all others."""
BOTH_LANES: Final = (BLOCKING, ASYNC)


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Limits: times in ns, the queue in dispatches and in bytes."""

    timeout_ns: int
    queue_size: int
    queue_wait_ns: int = 0
    """How long a dispatch may wait in an overload, in ns; 0: until its deadline."""
    breaker_cooldown: float = 10.0
    """Seconds for which a hook that kills workers is not run."""
    queue_bytes: int = HELD_BYTES
    """Bytes of dispatches that may wait or run."""


class Router:
    """Takes dispatches from the front ends, gives them to workers, and brings back the answers."""

    watcher: LinkWatcher
    """Told about workers in trouble; set by the supervisor before any worker joins."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: RouterOptions,
        end_of_turn: EndOfTurn | None = None,
        oversize: SizeRefusals | None = None,
        tracer: DispatchTracer | None = None,
    ) -> None:
        """`end_of_turn` is shared with the front ends, so that one doorbell announces everything they receive at once;
        `oversize` is shared with them, too. `tracer`: None if nothing is traced."""
        self.hooks = HookTable()
        self.quarantine = Quarantine(options.breaker_cooldown)
        self.pool = LinkPool()
        self.draining = False
        self.hopeless: str | None = None
        """Why no worker will ever take a dispatch, once that is known."""
        self._loop = loop
        self._options = options
        self._tracer = tracer
        self._end_of_turn = end_of_turn or EndOfTurn(loop)
        self._pending = PendingQueue()
        self._deadlines = DeadlineWheel()
        self._outcomes = Outcomes(loop, self._pending, self._deadlines, oversize or SizeRefusals())
        self._clock = Clock(loop, options.queue_wait_ns, self._pending, self._deadlines, self._outcomes, self)
        self.counters: Counters = self._outcomes.counters
        self.on_taken: list[Callable[[Dispatch, HookStats], None]] = []
        """Called with every dispatch before it goes to a worker; must not raise."""
        self.observers: list[DispatchObserver] = self._outcomes.observers
        """Told about every dispatch that has ended."""
        self.failure_observers: list[DispatchObserver] = self._outcomes.failure_observers
        """Told about those that have not succeeded."""
        self._seq = 0
        self._to_ring: dict[Link, None] = {}
        """Links that were sent dispatches in this turn."""

    # -- for the front ends ---

    def dispatch(self, dispatch: Dispatch) -> None:
        """Take a dispatch: send it to a worker if one is free, otherwise queue it."""
        self.counters.taken += 1
        hook = self.hooks.unknown
        try:
            hook = self.hooks.identify(dispatch)
            if self._tracer is not None:
                self._tracer.begin(dispatch, hook)
            for choose in self.on_taken:
                choose(dispatch, hook.stats)
            held = self._outcomes.held + len(dispatch.body)
            if (
                self.draining
                or self.hopeless is not None
                or self._pending.waiting >= self._options.queue_size
                or (held > self._options.queue_bytes and self._outcomes.held)
            ):
                self._refuse()
            if self.quarantine.active:
                self.quarantine.check(dispatch)
        except DispatchError as error:
            self._outcomes.refuse(dispatch, hook.stats, error)
            return
        dispatch.hook = hook
        dispatch.taken_ns = now = time.monotonic_ns()
        own, dispatch.limit_ns = dispatch.deadline_ns, now + (hook.timeout_ns or self._options.timeout_ns)
        dispatch.deadline_ns = min(now + own, dispatch.limit_ns) if own else dispatch.limit_ns
        self._deadlines.add(dispatch)
        self._outcomes.under_way += 1
        self._outcomes.held = held
        # If others wait in its lane, no worker has room: one that had would already have been given one of those.
        if self._pending.in_lane[hook.queue_lane]:
            link = None
        elif hook.group:
            link = least_loaded(self.hooks.groups[hook.group - 1], hook.lane)
        else:
            link = self.pool.choose(hook.lane, is_short=hook.times.is_short)
        if link is not None:
            self._send(link, dispatch)
        elif hook.group and self._restricted_queue_is_full():
            most = self._options.queue_size // RESTRICTED_SHARE
            waiting = counted(most, "dispatch waits", "dispatches wait")
            message = f"{waiting} already for workers that have loaded their bundles (--queue-size)"
            self._outcomes.fail(dispatch, DispatchError(Status.OVERLOADED, message, Rejection.QUEUE_FULL))
        else:
            self._pending.push(dispatch)
        if not self._clock.ticking:
            self._clock.start(now)

    def cancel(self, dispatch: Dispatch) -> None:
        """Forget a dispatch whose caller went away: drop it if it has not started, discard its answer if it has."""
        if dispatch.completed:
            return
        self.counters.cancelled += 1
        self.abandon(dispatch, GrpcCode.CANCELLED)

    # -- for the workers' supervisor ---

    def join(self, link: Link) -> None:
        """Add a worker that is ready."""
        link.open = True
        self.pool.add(link)
        self.place_waiting()

    def learn(self, description: list[dict[str, Any]], restrictions: Restrictions = UNRESTRICTED) -> None:
        """Learn what the workers have loaded, and regroup the waiting dispatches."""
        before = self.hooks.groups
        self.hooks.update(description, restrictions)
        if before or self.hooks.groups:
            with self._end_of_turn:
                self._regroup()

    def await_bundles(self, wait: bool) -> None:
        """Set the bundles that no worker has and whose dispatches wait; a worker answers those for other bundles."""
        self.hooks.await_bundles(wait)
        with self._end_of_turn:
            self._regroup()

    def leave(self, link: Link) -> None:
        """Give a worker nothing more; dispatches that it has not started go to others, running ones may finish."""
        self._remove(link)
        self.take_back(link)

    def receive(self, link: Link) -> None:
        """Take the answers that a worker has announced, and give it more."""
        with self._end_of_turn:
            try:
                answers = link.receive()
            except RingCorruptError as error:
                self._distrust(link, error)
                return
            for answer in answers:
                try:
                    self._outcomes.answer(link, answer)
                except Exception as fault:  # noqa: BLE001 (it costs this answer, and not those behind it)
                    report(fault)
            self.pool.moved(link)
            if self._pending.waiting:
                self._refill(link)

    def lost(self, link: Link, death: Death) -> list[Dispatch]:
        """Remove a dead worker; answer its dispatches, fail them, or give them to others.

        Dispatches that it ran fail, or run again if the hook is declared idempotent; those that it had not started go
        to the front of the queue, oldest first. Returns those that it ran when it died; if it hung, those that did.
        """
        with self._end_of_turn:
            self._remove(link)
            self._to_ring.pop(link, None)
            link.progress_ns = time.monotonic_ns()
            each(partial(self._outcomes.answer, link), death.answers)
            # While a hook is overdue, dispatches that had not started waited for a worker that takes nothing.
            guilty = death.executing & link.overdue if link.overdue else death.executing
            ran = [link.in_flight[seq] for seq in sorted(guilty) if seq in link.in_flight]
            attempt(self._blame, ran, death)
            each(partial(self._recover, link, death), sorted(link.in_flight, reverse=True))
            self.place_waiting()
        return ran

    def awake(self, link: Link) -> None:
        """Trust a silent worker again after a sign of life."""
        link.wake()
        self.place_waiting()

    def relieved(self, link: Link) -> None:
        """Note that a worker whose hooks all wait has another thread for more."""
        self._clock.relieved(link)

    def give_up(self, why: str) -> None:
        """Fail all waiting and all future dispatches, because no worker will ever be ready."""
        self.hopeless = why
        for dispatch in self._pending:
            self._outcomes.fail(dispatch, DispatchError(Status.UNAVAILABLE, why, Rejection.NO_WORKERS))

    # -- state ---

    @property
    def waiting(self) -> int:
        """Dispatches that wait for a worker."""
        return self._pending.waiting

    @property
    def under_way(self) -> int:
        """Dispatches taken and not yet completed."""
        return self._outcomes.under_way

    @property
    def held(self) -> int:
        """Bytes of the dispatches that wait or are at a worker, even if nobody waits for the answer any more."""
        return self._outcomes.held

    @property
    def rejected(self) -> Counter[Rejection]:
        """Dispatches that were not run, by reason."""
        return self._outcomes.rejected

    async def idle(self) -> None:
        """Wait until nothing is under way. One caller at a time."""
        await self._outcomes.idle()

    # -- for the clock ---

    def abandon(self, dispatch: Dispatch, code: GrpcCode) -> None:
        """Complete a dispatch for which nobody waits any more; it does not run unless it has started.

        If it runs, its worker hangs once the hook's own limit has passed as well. `code`: what it is counted as.
        """
        self._outcomes.abandon(dispatch, code)
        if isinstance(dispatch.link, Link):
            self.take_back(dispatch.link)
        if dispatch.link is not None:
            dispatch.deadline_ns = dispatch.limit_ns
            self._deadlines.add(dispatch)

    def take_back(self, link: Link) -> None:
        """Give the dispatches that a worker has not started to others."""
        if not link.in_flight:
            return
        try:
            taken = link.take_back()
        except RingCorruptError as error:
            self._distrust(link, error)
            return
        each(self._taken_back, reversed(taken))
        self.pool.moved(link)
        self.place_waiting()

    def place_waiting(self) -> None:
        """Send as much of the queue as the workers take."""
        if self.hooks.groups:
            while self._place_round():
                pass
            return
        for lane in BOTH_LANES:
            while self._pending.in_lane[lane] and (chosen := self.pool.choose(lane)) is not None:
                dispatch = self._pending.pop(lane)
                if dispatch is None:
                    break
                self._send(chosen, dispatch)

    def _place_round(self) -> bool:
        """Give one dispatch to each worker that takes one, the least busy first; return whether any did."""
        placed = False
        for link in sorted(self.pool, key=_load):
            dispatch = self._pop_for(link, BLOCKING) or self._pop_for(link, ASYNC)
            if dispatch is not None:
                self._send(link, dispatch)
                placed = True
        return placed

    def saturated_groups(self) -> list[bool]:
        """Return, for all workers and for each group, whether it has workers and none of them takes more."""
        groups = [[*self.pool], *([link for link in links if link.open] for links in self.hooks.groups)]
        return [bool(links) and not self._is_taken(number, links) for number, links in enumerate(groups)]

    def can_run(self, dispatch: Dispatch) -> bool:
        """Return whether a worker that is ready has loaded the hook."""
        group = dispatch.hook.group if dispatch.hook is not None else 0
        return not group or any(link.open for link in self.hooks.groups[group - 1])

    # -- to workers ---

    def _send(self, link: Link, dispatch: Dispatch) -> None:
        """Send a dispatch to a worker; its doorbell rings at the end of this turn."""
        self._seq += 1
        try:
            link.send(dispatch, self._seq)
        except Exception as error:  # noqa: BLE001 (its caller gets an error, whatever it was)
            self._not_sent(link, dispatch, error)
            return
        self.pool.moved(link)
        if 0 < dispatch.share < WHOLE:
            self.pool.is_shared = True
        if not self._to_ring:
            self._end_of_turn.at_end(self._ring)
        self._to_ring[link] = None

    def _not_sent(self, link: Link, dispatch: Dispatch, error: Exception) -> None:
        if isinstance(error, MessageTooLargeError):
            self._outcomes.fail_for_size(dispatch, error.size)
        elif isinstance(error, SpillClosedError):
            # The worker is dead, as will be reported in a moment. Nothing was sent: another worker gets the dispatch.
            self._remove(link)
            self.watcher.gone(link)
            self._put_back(dispatch)
            self._loop.call_soon(self.place_waiting)
        elif isinstance(error, RingCorruptError | RingFullError):
            # Credits leave room for every dispatch: if the ring is full, its reader has written a false position.
            self._put_back(dispatch)
            self._distrust(link, error)
        elif isinstance(error, IpcError):
            message = f"{link} cannot be given anything: {error}"
            self._outcomes.fail(dispatch, DispatchError(Status.INTERNAL, message))
        else:
            self._outcomes.fail_for_fault(dispatch, error)

    def _ring(self) -> None:
        """Ring the doorbell of each worker that was sent something in this turn, once."""
        links, self._to_ring = self._to_ring, {}
        each(self._ring_one, links)

    def _ring_one(self, link: Link) -> None:
        try:
            link.channel.ring()
        except IpcError as error:
            self._distrust(link, error)

    def _refill(self, link: Link) -> None:
        """Send a worker that has answered as much of the queue as it takes."""
        for lane in BOTH_LANES:
            while (dispatch := self._pop_for(link, lane)) is not None:
                self._send(link, dispatch)

    def _pop_for(self, link: Link, lane: int) -> Dispatch | None:
        """Take the next dispatch of a lane that a worker can run from the queue, if the worker has room."""
        if not link.accepts(lane):
            return None
        if not link.groups:
            return self._pending.pop(lane)
        return self._pending.pop_oldest([LANES * group + lane for group in (0, *link.groups)])

    # -- the queue ---

    def _refuse(self) -> NoReturn:
        if self.draining:
            raise DispatchError(Status.UNAVAILABLE, "the broker is shutting down", Rejection.DRAINING)
        if self.hopeless is not None:
            raise DispatchError(Status.UNAVAILABLE, self.hopeless, Rejection.NO_WORKERS)
        if self._pending.waiting >= self._options.queue_size:
            waiting = counted(self._pending.waiting, "dispatch waits", "dispatches wait")
            what = f"{waiting} already for {counted(len(self.pool), 'worker')} (--queue-size)"
            raise DispatchError(Status.OVERLOADED, what, Rejection.QUEUE_FULL)
        what = f"dispatches of {self._outcomes.held} bytes wait or run already (--queue-bytes)"
        raise DispatchError(Status.OVERLOADED, what, Rejection.BYTES)

    def _restricted_queue_is_full(self) -> bool:
        restricted = self._pending.waiting - self._pending.waiting_of(0)
        return restricted >= self._options.queue_size // RESTRICTED_SHARE

    def _regroup(self) -> None:
        """Regroup the waiting dispatches by the workers that can run them now, and send what those take."""
        groups = self.hooks.groups
        for link in {*self.pool, *(link for links in groups for link in links)}:
            link.groups = tuple(number for number, links in enumerate(groups, 1) if link in links)
        for dispatch in self._pending.divide(1 + len(groups)):
            dispatch.hook = self.hooks.identify(dispatch)
            self._pending.push(dispatch)
        self.place_waiting()

    def _is_taken(self, group: int, links: list[Link]) -> bool:
        lanes = [lane for lane in BOTH_LANES if self._pending.in_lane[LANES * group + lane]]
        return any(link.accepts(lane) for lane in lanes for link in links)

    def _put_back(self, dispatch: Dispatch) -> None:
        """Put a dispatch at the front of the queue, unless it is quarantined by now."""
        assert dispatch.hook is not None
        if not self.quarantine.active or self._may_run(dispatch):
            if self.hooks.groups or dispatch.hook.group:
                # The workers that can run it may have changed since it was taken.
                dispatch.hook = self.hooks.identify(dispatch)
            self._pending.push_front(dispatch)

    def _may_run(self, dispatch: Dispatch) -> bool:
        """Fail a dispatch that is quarantined by now; return whether it may run."""
        try:
            self.quarantine.check(dispatch)
        except DispatchError as error:
            self._outcomes.fail(dispatch, error)
            return False
        return True

    # -- back from workers ---

    def _taken_back(self, dispatch: Dispatch) -> None:
        if dispatch.completed:
            self._outcomes.release(dispatch)
        else:
            self._put_back(dispatch)

    def _blame(self, ran: list[Dispatch], death: Death) -> None:
        """Blame the dispatches that a dead worker ran; fail waiting ones that must not run any more."""
        if self.quarantine.blame(ran, death.cause):
            each(self._may_run, self._pending)

    def _recover(self, link: Link, death: Death, seq: int) -> None:
        """Fail a dispatch that a dead worker had, or give it to another worker."""
        dispatch = link.finish(seq)
        assert dispatch is not None
        dispatch.seq = 0
        if dispatch.completed:
            self._outcomes.release(dispatch)
            return
        try:
            error = final_error(dispatch, seq, death)
            if error is not None:
                started = link.channel.execution_started_ns(seq) if seq in death.executing else 0
                hook_ns = max(0, link.progress_ns - started) if started else None
                self._outcomes.fail(dispatch, error, hook_ns)
            else:
                self.counters.redispatched += 1
                self._put_back(dispatch)
        except Exception as fault:  # noqa: BLE001 (its caller gets an error, whatever it was)
            self._outcomes.fail_for_fault(dispatch, fault)

    def _remove(self, link: Link) -> None:
        """Give a worker nothing more."""
        link.open = False
        self.pool.remove(link)

    def _distrust(self, link: Link, error: IpcError) -> None:
        """Give nothing more to a worker that wrote something impossible; its dispatches are decided when it is dead."""
        if link.distrusted:
            return
        link.distrusted = True
        self._remove(link)
        self.watcher.corrupt(link, error)
        self._loop.call_soon(self.place_waiting)


def least_loaded(links: Iterable[Link], lane: int) -> Link | None:
    """Return the worker with the least in flight that takes a dispatch of this lane, or None. For few workers only."""
    return min((link for link in links if link.accepts(lane)), key=_load, default=None)


def _load(link: Link) -> int:
    return len(link.in_flight)
