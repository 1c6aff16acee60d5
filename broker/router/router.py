"""The router: which worker runs a dispatch, when, and what the caller is told if none does.

One bounded queue, late binding, a deadline for every dispatch, and one outcome for each: the dispatches in flight are
known by worker and sequence number, so an answer that nobody waits for any more finds nobody to go to.
"""

import asyncio
import time
from typing import Any, Final, NoReturn

from tykpy.broker.end_of_turn import Turn
from tykpy.broker.errors import DispatchError
from tykpy.broker.faults import report
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.broker.router.blame import Poison
from tykpy.broker.router.clock import Ticks
from tykpy.broker.router.contract import Counters, Death, RouterOptions, Watcher
from tykpy.broker.router.deadlines import DeadlineWheel
from tykpy.broker.router.deaths import Deaths
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_table import UNRESTRICTED, HookTable, Restrictions
from tykpy.broker.router.link import Link
from tykpy.broker.router.link_pool import LinkPool
from tykpy.broker.router.outcomes import Outcomes
from tykpy.broker.router.placing import Placing
from tykpy.broker.router.queue import PendingQueue
from tykpy.ipc.errors import RingCorruptError
from tykpy.ipc.frame import Status

RESTRICTED_SHARE: Final = 2
"""Dispatches that only some workers can run may fill one half of the queue: the other half is for all others."""


class Router:
    """Takes dispatches from the front ends, gives them to workers, and brings back what came of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: RouterOptions,
        turn: Turn | None = None,
        oversize: SizeRefusals | None = None,
    ) -> None:
        """`turn`: shared with the front ends, so that what they receive at once is rung for at once. `oversize`: shared
        with them, too."""
        self.hooks = HookTable()
        self.poison = Poison(options.breaker_cooldown)
        self.draining = False
        self.hopeless: str | None = None
        """Why no worker will ever take a dispatch, once that is known."""
        self._turn = turn or Turn(loop)
        self._options = options
        self._pending = pending = PendingQueue()
        self._deadlines = deadlines = DeadlineWheel()
        self._outcomes = outcomes = Outcomes(loop, pending, deadlines, oversize or SizeRefusals())
        self._placing = placing = Placing(loop, self._turn, pending, deadlines, outcomes, self.poison, self.hooks)
        self._deaths = Deaths(pending, outcomes, placing, self.poison)
        self._ticks = Ticks(loop, options.queue_wait_ns, pending, deadlines, outcomes, placing)
        self.counters: Counters = outcomes.counters
        self.pool: LinkPool = placing.pool

    def watched_by(self, watcher: Watcher) -> None:
        """Who hears of workers in trouble: set by the supervisor, before any worker joins."""
        self._placing.watcher = watcher

    # -- from the front ends ---

    def dispatch(self, dispatch: Dispatch) -> None:
        """Take a dispatch: to a worker at once if one is free, into the queue otherwise."""
        self.counters.taken += 1
        try:
            hook = self.hooks.identify(dispatch)
            held = self._outcomes.held + len(dispatch.body)
            if (
                self.draining
                or self.hopeless is not None
                or self._pending.waiting >= self._options.queue_size
                or (held > self._options.queue_bytes and self._outcomes.held)
            ):
                self._refuse()
            if self.poison.active:
                self.poison.check(dispatch)
        except DispatchError as error:
            self.counters.refused += 1
            dispatch.settled = True
            dispatch.fail(error)
            return
        dispatch.hook = hook
        dispatch.taken_ns = now = time.monotonic_ns()
        own, dispatch.limit_ns = dispatch.deadline_ns, now + (hook.timeout_ns or self._options.timeout_ns)
        dispatch.deadline_ns = min(now + own, dispatch.limit_ns) if own else dispatch.limit_ns
        self._deadlines.add(dispatch)
        self._outcomes.under_way += 1
        self._outcomes.held = held
        if hook.links is not None:
            self._placing.place_restricted(dispatch, hook.links, self._options.queue_size // RESTRICTED_SHARE)
        else:
            # While others of its lane wait, no worker takes one: each that could is given one of those at once.
            link = (
                None if self._pending.in_lane[hook.lane] else self.pool.choose(hook.lane, is_short=hook.times.is_short)
            )
            if link is None:
                self._pending.push(dispatch, hook.lane, urgent=dispatch.urgent)
            else:
                self._placing.start(link, dispatch)
        if not self._ticks.ticking:
            self._ticks.start(now)

    def cancel(self, dispatch: Dispatch) -> None:
        """The caller went away: the hook does not run if it has not started; if it has, nobody hears of its answer."""
        if dispatch.settled:
            return
        self.counters.cancelled += 1
        self._placing.abandon(dispatch)

    # -- from the workers ---

    def join(self, link: Link) -> None:
        """A worker is ready."""
        link.open = True
        self.pool.add(link)
        self._placing.place_waiting()

    def learn(self, description: list[dict[str, Any]], restrictions: Restrictions = UNRESTRICTED) -> None:
        """Take what the workers have loaded; what waits is placed by it."""
        before = self.hooks.groups
        self.hooks.update(description, restrictions)
        if before or self.hooks.groups:
            with self._turn:
                self._placing.regroup()

    def await_bundles(self, wait: bool) -> None:
        """Let dispatches for bundles that no worker has wait from now on, or have them answered."""
        self.hooks.await_bundles(wait)
        with self._turn:
            self._placing.regroup()

    def leave(self, link: Link) -> None:
        """A worker takes nothing more; what it has not started goes to others, what it runs is waited for."""
        self._placing.remove(link)
        self._placing.take_back(link)

    def receive(self, link: Link) -> None:
        """The worker rang: settle what it answered, and give it more."""
        with self._turn:
            try:
                answers = link.receive()
            except RingCorruptError as error:
                self._placing.distrust(link, error)
                return
            for answer in answers:
                try:
                    self._outcomes.answer(link, answer)
                except Exception as fault:  # noqa: BLE001 (it costs this answer, and not those behind it)
                    report(fault)
            self.pool.moved(link)
            if self._pending.waiting:
                self._placing.refill(link)

    def lost(self, link: Link, death: Death) -> None:
        """A worker died.

        What it ran fails once, or runs again where the hook is declared idempotent; what it had not started goes to
        the front of the queue.
        """
        with self._turn:
            self._deaths.settle(link, death)

    def awake(self, link: Link) -> None:
        """A silent worker has shown that it lives."""
        link.wake()
        self._placing.place_waiting()

    def relieved(self, link: Link) -> None:
        """A worker whose hooks all wait has another thread for what comes."""
        self._ticks.relieved(link)

    def give_up(self, why: str) -> None:
        """No worker will ever be ready: everything that waits fails with the reason, and so does what comes."""
        self.hopeless = why
        for dispatch in self._pending:
            self._outcomes.fail(dispatch, DispatchError(Status.UNAVAILABLE, why))

    # -- state ---

    @property
    def waiting(self) -> int:
        """Dispatches that wait for a worker."""
        return self._pending.waiting

    @property
    def under_way(self) -> int:
        """Dispatches taken and not yet settled."""
        return self._outcomes.under_way

    @property
    def held(self) -> int:
        """Bytes of the dispatches that wait, or are at a worker, also where nobody waits for the answer any more."""
        return self._outcomes.held

    async def idle(self) -> None:
        """Return when nothing is under way. One caller at a time."""
        await self._outcomes.idle()

    # -- steps ---

    def _refuse(self) -> NoReturn:
        if self.draining:
            raise DispatchError(Status.UNAVAILABLE, "the broker is shutting down")
        if self.hopeless is not None:
            raise DispatchError(Status.UNAVAILABLE, self.hopeless)
        if self._pending.waiting >= self._options.queue_size:
            what = f"{self._pending.waiting} dispatches wait already for {len(self.pool)} workers (--queue-size)"
        else:
            what = f"dispatches of {self._outcomes.held} bytes wait or run already (--queue-bytes)"
        raise DispatchError(Status.OVERLOADED, what)
