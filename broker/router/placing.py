"""Late binding: which worker gets which dispatch, and what comes back from a worker that does not start it."""

import asyncio
from collections.abc import Iterable
from typing import Final

from tykpy.broker.end_of_turn import Turn
from tykpy.broker.errors import DispatchError
from tykpy.broker.faults import each
from tykpy.broker.router.blame import Poison
from tykpy.broker.router.contract import Watcher
from tykpy.broker.router.deadlines import DeadlineWheel
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_table import HookTable
from tykpy.broker.router.hook_times import WHOLE
from tykpy.broker.router.link import Link
from tykpy.broker.router.link_pool import LinkPool
from tykpy.broker.router.outcomes import Outcomes
from tykpy.broker.router.queue import ASYNC, BLOCKING, LANES, PendingQueue
from tykpy.ipc.errors import IpcError, MessageTooLargeError, RingCorruptError, RingFullError, SpillClosedError
from tykpy.ipc.frame import Status

BOTH_LANES: Final = (BLOCKING, ASYNC)


class Placing:
    """The workers that are ready, and the queue before them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        turn: Turn,
        pending: PendingQueue,
        deadlines: DeadlineWheel,
        outcomes: Outcomes,
        poison: Poison,
        hooks: HookTable,
    ) -> None:
        self.pool = LinkPool()
        self.watcher: Watcher
        """Hears of workers in trouble."""
        self._loop = loop
        self._turn = turn
        self._pending = pending
        self._deadlines = deadlines
        self._outcomes = outcomes
        self._poison = poison
        self._hooks = hooks
        self._seq = 0
        self._to_ring: dict[Link, None] = {}

    # -- to workers ---

    def start(self, link: Link, dispatch: Dispatch) -> None:
        """Give a dispatch to a worker, which hears of it when this turn ends."""
        self._seq += 1
        try:
            link.send(dispatch, self._seq)
        except Exception as error:  # noqa: BLE001 (its caller is told, whatever it was)
            self._not_sent(link, dispatch, error)
            return
        self.pool.moved(link)
        if 0 < dispatch.share < WHOLE:
            self.pool.is_shared = True
        if not self._to_ring:
            self._turn.at_end(self.ring)
        self._to_ring[link] = None

    def _not_sent(self, link: Link, dispatch: Dispatch, error: Exception) -> None:
        if isinstance(error, MessageTooLargeError):
            self._outcomes.fail_for_size(dispatch, error.size)
        elif isinstance(error, SpillClosedError):
            # It is dead, and that will be told in a moment; nothing was sent, so the dispatch is another worker's.
            self.remove(link)
            self.watcher.gone(link)
            self.put_back(dispatch)
            self._loop.call_soon(self.place_waiting)
        elif isinstance(error, RingCorruptError | RingFullError):
            # Credits leave room for whatever is sent: a ring that has none is one whose reader does not keep its place.
            self.put_back(dispatch)
            self.distrust(link, error)
        elif isinstance(error, IpcError):
            message = f"{link} cannot be given anything: {error}"
            self._outcomes.fail(dispatch, DispatchError(Status.INTERNAL, message))
        else:
            self._outcomes.broken(dispatch, error)

    def ring(self) -> None:
        """One doorbell write per worker for all that was sent to it in this turn."""
        links, self._to_ring = self._to_ring, {}
        each(self._ring_one, links)

    def _ring_one(self, link: Link) -> None:
        try:
            link.channel.ring()
        except IpcError as error:
            self.distrust(link, error)

    def refill(self, link: Link) -> None:
        """Give a worker that has answered what it takes of the queue."""
        if link.groups:
            while self._give_oldest(link):
                pass
            return
        for lane in BOTH_LANES:
            while link.accepts(lane) and (dispatch := self._pending.pop(lane)) is not None:
                self.start(link, dispatch)

    def place_waiting(self) -> None:
        """Give out as much of the queue as the workers take."""
        if self._hooks.groups:
            self._place_groups()
            return
        for lane in BOTH_LANES:
            while self._pending.in_lane[lane] and (link := self.pool.choose(lane)) is not None:
                dispatch = self._pending.pop(lane)
                if dispatch is None:
                    break
                self.start(link, dispatch)

    # -- what only some workers have loaded ---

    def place_restricted(self, dispatch: Dispatch, links: frozenset[Link], most: int) -> None:
        """Give a dispatch to one of these workers if one is free, queue it otherwise; at most so many wait."""
        assert dispatch.hook is not None
        lane, queue_lane = dispatch.hook.lane, dispatch.hook.queue_lane
        link = None if self._pending.in_lane[queue_lane] else least_loaded(links, lane)
        if link is not None:
            self.start(link, dispatch)
        elif self._pending.waiting - self._pending.waiting_of(0) >= most:
            message = f"{most} dispatches wait already for workers that have loaded their bundles (--queue-size)"
            self._outcomes.fail(dispatch, DispatchError(Status.OVERLOADED, message))
        else:
            self._pending.push(dispatch, queue_lane, urgent=dispatch.urgent)

    def saturated_groups(self) -> list[bool]:
        """Whether there are workers, and none takes more of what waits for them: for all, and for each group."""
        groups = [[*self.pool], *([link for link in links if link.open] for links in self._hooks.groups)]
        return [bool(links) and not self._is_taken(number, links) for number, links in enumerate(groups)]

    def _is_taken(self, group: int, links: list[Link]) -> bool:
        lanes = [lane for lane in BOTH_LANES if self._pending.in_lane[LANES * group + lane]]
        return any(link.accepts(lane) for lane in lanes for link in links)

    def regroup(self) -> None:
        """Sort what waits by the workers that can run it now, and give out what they take."""
        groups = self._hooks.groups
        for link in {*self.pool, *(link for links in groups for link in links)}:
            link.groups = tuple(number for number, links in enumerate(groups, 1) if link in links)
        for dispatch in self._pending.divide(1 + len(groups)):
            dispatch.hook = self._hooks.identify(dispatch)
            self._pending.push(dispatch, dispatch.hook.queue_lane, urgent=dispatch.urgent)
        self.place_waiting()

    def _place_groups(self) -> None:
        """Give every worker one dispatch in turn, those with the least to do first, as long as any takes one."""
        placed = True
        while placed:
            placed = False
            for link in sorted(self.pool, key=_load):
                placed |= self._give_oldest(link)

    def _give_oldest(self, link: Link) -> bool:
        """Give a worker the oldest dispatch that it can run and takes, of all or of its groups."""
        for lane in BOTH_LANES:
            if link.accepts(lane):
                dispatch = self._pending.pop_oldest([LANES * group + lane for group in (0, *link.groups)])
                if dispatch is not None:
                    self.start(link, dispatch)
                    return True
        return False

    # -- back from workers ---

    def abandon(self, dispatch: Dispatch) -> None:
        """Nobody waits for it any more: it does not run if it has not started.

        If it runs, its worker hangs once the hook's own limit has passed as well.
        """
        self._outcomes.settle(dispatch)
        if dispatch.link is not None:
            self.take_back(dispatch.link)
        if dispatch.link is not None:
            dispatch.deadline_ns = dispatch.limit_ns
            self._deadlines.add(dispatch)

    def take_back(self, link: Link) -> None:
        """What a worker has not started goes to others."""
        if not link.in_flight:
            return
        try:
            taken = link.take_back()
        except RingCorruptError as error:
            self.distrust(link, error)
            return
        each(self._taken_back, reversed(taken))
        self.pool.moved(link)
        self.place_waiting()

    def _taken_back(self, dispatch: Dispatch) -> None:
        if dispatch.settled:
            self._outcomes.let_go(dispatch)
        else:
            self.put_back(dispatch)

    def put_back(self, dispatch: Dispatch) -> None:
        """To the front of the queue, unless it has become one that is not run."""
        assert dispatch.hook is not None
        if not self._poison.active or self.may_run(dispatch):
            if self._hooks.groups or dispatch.hook.links is not None:
                # Who can run it may have changed since it was taken.
                dispatch.hook = self._hooks.identify(dispatch)
            self._pending.push_front(dispatch, dispatch.hook.queue_lane, urgent=dispatch.urgent)

    def may_run(self, dispatch: Dispatch) -> bool:
        """Fail what is known to kill workers by now."""
        try:
            self._poison.check(dispatch)
        except DispatchError as error:
            self._outcomes.fail(dispatch, error)
            return False
        return True

    def remove(self, link: Link) -> None:
        """A worker gets nothing more."""
        link.open = False
        self.pool.remove(link)

    def forget(self, link: Link) -> None:
        """A worker is dead."""
        self.remove(link)
        self._to_ring.pop(link, None)

    def distrust(self, link: Link, error: IpcError) -> None:
        """Give a worker nothing more that wrote something impossible; what it has is settled when it is dead."""
        if link.distrusted:
            return
        link.distrusted = True
        self.remove(link)
        self.watcher.corrupt(link, error)
        self._loop.call_soon(self.place_waiting)


def least_loaded(links: Iterable[Link], lane: int) -> Link | None:
    """Of a few workers, the one with the least in flight that takes a dispatch of this lane, or None."""
    return min((link for link in links if link.accepts(lane)), key=_load, default=None)


def _load(link: Link) -> int:
    return len(link.in_flight)
