"""The router: which worker runs a dispatch, when, and what the caller is told if none does.

One bounded queue, late binding, a deadline for every dispatch, and one outcome for each: the dispatches in flight are
known by worker and sequence number, so an answer that nobody waits for any more finds nobody to go to.
"""

import asyncio
import logging
import time
from typing import Final, NoReturn

from broker.errors import DispatchError
from broker.quiet_log import QuietLog
from broker.routing.answers import body_of
from broker.routing.contract import Counters, Death, RouterOptions, Watcher
from broker.routing.deadlines import TICK_SECONDS, DeadlineWheel
from broker.routing.dispatch import Dispatch
from broker.routing.hooks import CUSTOM_KEY_CHECK, HookInfo, HookTable
from broker.routing.link import Link
from broker.routing.link_pool import LinkPool
from broker.routing.overload import Overload
from broker.routing.peek import Peek, PeekError, peek
from broker.routing.peek_map import peek_map
from broker.routing.pending import ASYNC, BLOCKING, PendingQueue
from broker.routing.poison import Cause, Poison
from broker.turn import Turn
from ipc.bodies import Body
from ipc.channel import Answer
from ipc.errors import IpcError, MessageTooLargeError, RingCorruptError, RingFullError, SpillClosedError
from ipc.frame import Kind, Status

log = logging.getLogger("tykpy.router")

MAX_ATTEMPTS: Final = 3
"""Workers that may die by themselves with a dispatch still unstarted before its caller gets an error."""
STALL_NS: Final = 10_000_000
"""A worker that has not answered for so long gives back what it has not started."""
SILENCE_NS: Final = 200_000_000
"""A worker that has started nothing of what it was given for so long is asked whether it lives."""
LANES: Final = (BLOCKING, ASYNC)
EVENT: Final = HookInfo("an event")
EVENT_KINDS: Final = frozenset({Kind.EVENT, Kind.EVENT_MAP})
# Members of an enum cost more to look up and to compare than anything else in `_identify`.
_OBJECT: Final = int(Kind.OBJECT)
_OBJECT_MAP: Final = int(Kind.OBJECT_MAP)


def _peek_object(body: Body) -> Peek:
    return peek(body) if isinstance(body, bytes) else peek(body.view())


class Router:
    """Takes dispatches from the front ends, gives them to workers, and brings back what came of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: RouterOptions, turn: Turn | None = None) -> None:
        """`turn`: shared with the front ends, so that what they receive at once is rung for at once."""
        self.hooks = HookTable()
        self.counters = Counters()
        self.pool = LinkPool()
        self.poison = Poison(options.breaker_cooldown)
        self.draining = False
        self.hopeless: str | None = None
        """Why no worker will ever take a dispatch, once that is known."""
        self.watcher: Watcher
        """Set by the supervisor that watches the workers of this router."""
        self._loop = loop
        self._turn = turn or Turn(loop)
        self._options = options
        self._pending = PendingQueue()
        self._deadlines = DeadlineWheel()
        self._overload = Overload(options.queue_wait_ns)
        self._seq = 0
        self._to_ring: dict[Link, None] = {}
        self._ticking = False
        self._under_way = 0
        self._idle: asyncio.Future[None] | None = None
        self._unknown_handlers = QuietLog(log)

    # -- from the front ends ---

    def dispatch(self, dispatch: Dispatch) -> None:
        """Take a dispatch: to a worker at once if one is free, into the queue otherwise."""
        self.counters.taken += 1
        try:
            hook = self._identify(dispatch)
            if self.draining or self.hopeless is not None or self._pending.waiting >= self._options.queue_size:
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
        self._under_way += 1
        # While others of its lane wait, no worker takes one: each that could is given one of those at once.
        link = None if self._pending.in_lane[hook.lane] else self.pool.choose(hook.lane, is_short=hook.is_short)
        if link is None:
            self._pending.push(dispatch, hook.lane, urgent=dispatch.urgent)
        else:
            self._start(link, dispatch)
        if not self._ticking:
            self._overload.start(now)
            self._tick_later()

    def cancel(self, dispatch: Dispatch) -> None:
        """The caller went away: the hook does not run if it has not started; if it has, nobody hears of its answer."""
        if dispatch.settled:
            return
        self.counters.cancelled += 1
        self._settle(dispatch)
        if dispatch.link is not None:
            self._take_back(dispatch.link)
            self._watch_on(dispatch)

    # -- from the workers ---

    def join(self, link: Link) -> None:
        """A worker is ready."""
        link.open = True
        self.pool.add(link)
        self._place_waiting()

    def leave(self, link: Link) -> None:
        """A worker takes nothing more; what it has not started goes to others, what it runs is waited for."""
        link.open = False
        self.pool.remove(link)
        self._take_back(link)

    def receive(self, link: Link) -> None:
        """The worker rang: settle what it answered, and give it more."""
        with self._turn:
            try:
                answers = link.receive()
            except RingCorruptError as error:
                self._distrust(link, error)
                return
            for answer in answers:
                self._settle_answer(link, answer)
            self.pool.moved(link)
            if self._pending.waiting:
                self._refill(link)

    def lost(self, link: Link, death: Death) -> None:
        """A worker died.

        What it ran fails once, or runs again where the hook is declared idempotent; what it had not started goes to
        the front of the queue.
        """
        answers, executing, why, cause = death.answers, death.executing, death.why, death.cause
        link.open = False
        self.pool.remove(link)
        self._to_ring.pop(link, None)
        for answer in answers:
            self._settle_answer(link, answer)
        guilty = link.overdue if cause is Cause.HANG else executing
        poisoned = self.poison.blame([link.in_flight[seq] for seq in guilty if seq in link.in_flight], cause)
        for seq in sorted(link.in_flight, reverse=True):
            dispatch = link.finish(seq)
            assert dispatch is not None
            if dispatch.settled:
                self._deadlines.discard(dispatch)
            elif seq in executing or not death.trusted:
                self._run_again(dispatch, why)
            else:
                self._start_again(dispatch, why, cause)
        if poisoned:
            for waiting in self._pending:
                self._may_run(waiting)
        self._place_waiting()

    def awake(self, link: Link) -> None:
        """A silent worker has shown that it lives."""
        link.wake()
        self._place_waiting()

    def give_up(self, why: str) -> None:
        """No worker will ever be ready: everything that waits fails with the reason, and so does what comes."""
        self.hopeless = why
        for lane in LANES:
            while (dispatch := self._pending.pop(lane)) is not None:
                self._fail(dispatch, DispatchError(Status.UNAVAILABLE, why))

    # -- state ---

    @property
    def waiting(self) -> int:
        """Dispatches that wait for a worker."""
        return self._pending.waiting

    @property
    def under_way(self) -> int:
        """Dispatches taken and not yet settled."""
        return self._under_way

    async def idle(self) -> None:
        """Return when nothing is under way. One caller at a time."""
        if self._under_way:
            self._idle = self._loop.create_future()
            await self._idle

    # -- steps ---

    def _identify(self, dispatch: Dispatch) -> HookInfo:
        kind = dispatch.kind
        if kind != _OBJECT and kind != _OBJECT_MAP:
            return EVENT
        try:
            seen = _peek_object(dispatch.body) if kind == _OBJECT else peek_map(dispatch.encoded)
        except PeekError as error:
            raise DispatchError(Status.INVALID, f"the Object does not decode: {error}") from error
        dispatch.urgent = seen.hook_type == CUSTOM_KEY_CHECK
        dispatch.name = seen.hook_name
        return self.hooks.find(seen.bundle_hash, seen.hook_name)

    def _refuse(self) -> NoReturn:
        if self.draining:
            raise DispatchError(Status.UNAVAILABLE, "the broker is shutting down")
        if self.hopeless is not None:
            raise DispatchError(Status.UNAVAILABLE, self.hopeless)
        raise DispatchError(
            Status.OVERLOADED,
            f"{self._pending.waiting} dispatches wait already for {len(self.pool)} workers (--queue-size)",
        )

    def _start(self, link: Link, dispatch: Dispatch) -> None:
        self._seq += 1
        try:
            link.send(dispatch, self._seq)
        except MessageTooLargeError as error:
            self._fail(dispatch, DispatchError(Status.TOO_LARGE, str(error)))
            return
        except SpillClosedError:
            self._gone(link, dispatch)
            return
        except (RingCorruptError, RingFullError) as error:
            # Credits leave room for whatever is sent: a ring that has none is one whose reader does not keep its place.
            self._put_back(dispatch)
            self._distrust(link, error)
            return
        except IpcError as error:
            self._fail(dispatch, DispatchError(Status.INTERNAL, f"{link} cannot be given anything: {error}"))
            return
        self.pool.moved(link)
        if not self._to_ring:
            self._turn.at_end(self._ring)
        self._to_ring[link] = None

    def _gone(self, link: Link, dispatch: Dispatch) -> None:
        # It is dead, and that will be told in a moment; nothing was sent, so the dispatch is another worker's.
        link.open = False
        self.pool.remove(link)
        self.watcher.gone(link)
        self._put_back(dispatch)
        self._loop.call_soon(self._place_waiting)

    def _ring(self) -> None:
        # One doorbell write per worker for all that was sent to it in this turn.
        links, self._to_ring = self._to_ring, {}
        for link in links:
            try:
                link.channel.ring()
            except IpcError as error:
                self._distrust(link, error)

    def _refill(self, link: Link) -> None:
        for lane in LANES:
            while link.accepts(lane) and (dispatch := self._pending.pop(lane)) is not None:
                self._start(link, dispatch)

    def _place_waiting(self) -> None:
        for lane in LANES:
            while self._pending.in_lane[lane] and (link := self.pool.choose(lane)) is not None:
                dispatch = self._pending.pop(lane)
                if dispatch is None:
                    break
                self._start(link, dispatch)

    def _take_back(self, link: Link) -> None:
        if not link.in_flight:
            return
        try:
            taken = link.take_back()
        except RingCorruptError as error:
            self._distrust(link, error)
            return
        for dispatch in reversed(taken):
            if not dispatch.settled:
                self._put_back(dispatch)
        self.pool.moved(link)
        self._place_waiting()

    def _distrust(self, link: Link, error: IpcError) -> None:
        """Give a worker nothing more that wrote something impossible; what it has is settled when it is dead."""
        if link.distrusted:
            return
        link.distrusted = True
        link.open = False
        self.pool.remove(link)
        self.watcher.corrupt(link, error)
        self._loop.call_soon(self._place_waiting)

    def _put_back(self, dispatch: Dispatch) -> None:
        assert dispatch.hook is not None
        if not self.poison.active or self._may_run(dispatch):
            self._pending.push_front(dispatch, dispatch.hook.lane, urgent=dispatch.urgent)

    def _run_again(self, dispatch: Dispatch, why: str) -> None:
        assert dispatch.hook is not None
        if dispatch.hook.idempotent and not dispatch.retried:
            dispatch.retried = True
            self._redispatch(dispatch)
        else:
            self._fail(dispatch, DispatchError(Status.HOOK_FAILED, f"{why} while it ran this hook ({dispatch.name})"))

    def _start_again(self, dispatch: Dispatch, why: str, cause: Cause) -> None:
        # Nothing that had not started is to blame for a kill from outside. Where workers die by themselves it may be
        # its bytes that kill them before its hook is entered.
        if cause is not Cause.OUTSIDE:
            dispatch.attempts += 1
        if dispatch.attempts < MAX_ATTEMPTS:
            self._redispatch(dispatch)
            return
        what = f"before it started this hook, {dispatch.attempts} times"
        self._fail(dispatch, DispatchError(Status.HOOK_FAILED, f"{why} {what} ({dispatch.name})"))

    def _redispatch(self, dispatch: Dispatch) -> None:
        self.counters.redispatched += 1
        self._put_back(dispatch)

    def _may_run(self, dispatch: Dispatch) -> bool:
        try:
            self.poison.check(dispatch)
        except DispatchError as error:
            self._fail(dispatch, error)
            return False
        return True

    def _settle_answer(self, link: Link, answer: Answer) -> None:
        dispatch = link.finish(answer.seq)
        link.overdue.discard(answer.seq)
        if dispatch is None or dispatch.settled:
            if dispatch is not None:
                self._deadlines.discard(dispatch)
            self.counters.late += 1
            return
        try:
            body = body_of(answer, dispatch.kind)
        except DispatchError as error:
            if error.status is Status.NOT_FOUND and dispatch.kind in EVENT_KINDS:
                self._unknown_handlers.log(logging.WARNING, error.message, error.message)
            self._fail(dispatch, error)
            return
        self._settle(dispatch)
        assert dispatch.hook is not None
        dispatch.hook.learn(answer.handler_ns)
        self.counters.answered += 1
        dispatch.answer(dispatch.kind, body)

    def _settle(self, dispatch: Dispatch) -> None:
        dispatch.settled = True
        self._deadlines.discard(dispatch)
        if dispatch.waiting:
            assert dispatch.hook is not None
            self._pending.forget(dispatch, dispatch.hook.lane)
            dispatch.body = b""  # it may lie in the queue for a while
        self._under_way -= 1
        if not self._under_way and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _fail(self, dispatch: Dispatch, error: DispatchError) -> None:
        self._settle(dispatch)
        self.counters.failed += 1
        dispatch.fail(error)

    # -- time ---

    def _tick_later(self) -> None:
        self._ticking = True
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now = time.monotonic_ns()
        for dispatch in self._deadlines.expired(now):
            if dispatch.settled:
                self._hangs(dispatch, now)
            else:
                self._expire(dispatch)
        for dispatch in self._overload.look(self._pending, len(self.pool), now):
            self._shed(dispatch, now)
        for link in self.pool:
            if link.in_flight and now - link.progress_ns > STALL_NS and not link.stalled:
                self._look_at(link, now)
        self._ticking = False
        if self._under_way or self._deadlines:
            self._tick_later()

    def _expire(self, dispatch: Dispatch) -> None:
        link = dispatch.link
        self.counters.expired += 1
        self._settle(dispatch)
        where = "in the queue" if link is None else f"in {link}"
        dispatch.fail(DispatchError(Status.EXPIRED, f"deadline exceeded {where} ({dispatch.name})"))
        if link is not None:
            self._take_back(link)
            self._watch_on(dispatch)

    def _watch_on(self, dispatch: Dispatch) -> None:
        # Nobody waits for it any more, but it runs: its worker hangs once the hook's own limit has passed as well.
        if dispatch.link is not None:
            dispatch.deadline_ns = dispatch.limit_ns
            self._deadlines.add(dispatch)

    def _shed(self, dispatch: Dispatch, now: int) -> None:
        self.counters.shed += 1
        waited = (now - dispatch.taken_ns) / 1e9
        message = f"waited {waited:.1f} s, more comes than {len(self.pool)} workers can do (--queue-wait)"
        self._fail(dispatch, DispatchError(Status.OVERLOADED, message))

    def _hangs(self, dispatch: Dispatch, now: int) -> None:
        link = dispatch.link
        if link is None:
            return
        limit = self._hang_limit(dispatch, link)
        if now < limit:
            dispatch.deadline_ns = limit
            self._deadlines.add(dispatch)
        else:
            link.overdue.add(dispatch.seq)
            self.watcher.overdue(link)

    def _hang_limit(self, dispatch: Dispatch, link: Link) -> int:
        # One that had to wait has its whole time from its start: a worker that is busy does not hang. Nothing is
        # started after its deadline, whatever the worker says of it.
        started = min(link.channel.execution_started_ns(dispatch.seq), dispatch.limit_ns)
        return started + dispatch.limit_ns - dispatch.taken_ns

    def _look_at(self, link: Link, now: int) -> None:
        # It has not answered for a while. What it has not started may run elsewhere; if it runs nothing, it should.
        if link.channel.executing():
            link.stalled = True
            self._take_back(link)
        elif now - link.progress_ns > SILENCE_NS:
            link.silent = True
            self._take_back(link)
            self.watcher.silent(link)
