"""Complete dispatches: answers and errors go to their callers, and everything under way is counted."""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from time import monotonic_ns
from typing import Final

from tykpy.broker.codes import CODE_OF_STATUS, GrpcCode
from tykpy.broker.errors import DispatchError, Rejection
from tykpy.broker.faults import attempt, report
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.broker.router.answers import body_of, was_run
from tykpy.broker.router.deadlines import DeadlineWheel
from tykpy.broker.router.dispatch import Dispatch, DispatchObserver
from tykpy.broker.router.hook_stats import HookStats
from tykpy.broker.router.link import Link
from tykpy.broker.router.queue import PendingQueue
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.frame import EVENT_KINDS, Status, is_fault
from tykpy.ipc.reads import split_reads
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.router")

_OK: Final = int(GrpcCode.OK)


@dataclass(slots=True)
class Counters:
    """Dispatches since the broker started, by what became of them."""

    taken: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    shed: int = 0
    """Failed dispatches that waited too long in a queue that does not empty."""
    redispatched: int = 0
    late: int = 0
    """Answers whose callers no longer waited."""

    def as_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class Outcomes:
    """Completes dispatches, and takes them off the queue and the timing wheel."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pending: PendingQueue,
        deadlines: DeadlineWheel,
        oversize: SizeRefusals,
    ) -> None:
        self.observers: list[DispatchObserver] = []
        """Told about every dispatch that has ended."""
        self.failure_observers: list[DispatchObserver] = []
        """Told about those that have not succeeded."""
        self._oversize = oversize
        self.counters = Counters()
        self.rejected: Counter[Rejection] = Counter()
        """Dispatches that were not run."""
        self.under_way = 0
        """Dispatches taken and not yet completed."""
        self.held = 0
        """Bytes of the dispatches that wait or are at a worker, even if nobody waits for the answer any more."""
        self._loop = loop
        self._pending = pending
        self._deadlines = deadlines
        self._idle: asyncio.Future[None] | None = None
        self._unknown_handlers = QuietLog(log)

    def refuse(self, dispatch: Dispatch, stats: HookStats, error: DispatchError) -> None:
        """Fail a dispatch that the router does not take."""
        self.counters.refused += 1
        dispatch.completed = True
        self._count_error(dispatch, stats, error)
        dispatch.fail(error)

    def answer(self, link: Link, answer: Answer) -> None:
        """Hand a worker's answer to its caller, if the caller still waits. `link.progress_ns` is now."""
        dispatch = link.finish(answer.seq)
        link.overdue.discard(answer.seq)
        if dispatch is not None and dispatch.recorded:
            payload, dispatch.reads = split_reads(answer.payload)
            answer = answer._replace(payload=payload)
        if dispatch is None or dispatch.completed:
            if dispatch is not None:
                _note_run(dispatch, answer)
                self.release(dispatch)
            self.counters.late += 1
            return
        try:
            body = body_of(answer, dispatch.kind, dispatch.body)
        except DispatchError as error:
            hook_ns = _note_run(dispatch, answer)
            if error.status is Status.NOT_FOUND and dispatch.kind in EVENT_KINDS:
                self._unknown_handlers.log(logging.WARNING, error.message, error.message)
            if error.status is Status.INTERNAL and is_fault(answer.payload):
                link.note_fault(answer.seq)
            if error.status is Status.TOO_LARGE:
                text = self._oversize.refuse_answer(dispatch.kind, dispatch.name, error.message)
                error = DispatchError(Status.TOO_LARGE, text)
            self.fail(dispatch, error, hook_ns)
            return
        except Exception as fault:  # noqa: BLE001 (its caller gets an error, whatever it was)
            self.fail_for_fault(dispatch, fault)
            return
        self.complete(dispatch)
        hook, hook_ns = dispatch.hook, answer.handler_ns
        assert hook is not None
        hook.times.learn(hook_ns, answer.waited_ns)
        dispatch_ns = link.progress_ns - dispatch.taken_ns
        hook.stats.count(dispatch.hook_type, _OK, dispatch_ns, hook_ns)
        self.counters.answered += 1
        dispatch.answer(dispatch.kind, body)
        if dispatch.trace is not None:
            _end_trace(dispatch, hook.stats, _OK, dispatch_ns)
        for observer in self.observers:
            observer.note(dispatch, hook.stats, _OK, dispatch_ns, hook_ns, body)

    def fail(self, dispatch: Dispatch, error: DispatchError, hook_ns: int | None = None) -> None:
        """Complete a dispatch with an error; `hook_ns`: how long its hook ran, None: it was not run."""
        self.counters.failed += 1
        assert dispatch.hook is not None
        self._count_error(dispatch, dispatch.hook.stats, error, hook_ns)
        self.complete(dispatch)
        attempt(dispatch.fail, error)

    def fail_for_size(self, dispatch: Dispatch, size: int) -> None:
        """Complete a dispatch with an error: its body, of `size` bytes, is above the limit."""
        text = self._oversize.refuse_request(dispatch.kind, dispatch.name, f"the request has {size} bytes")
        self.fail(dispatch, DispatchError(Status.TOO_LARGE, text))

    def fail_for_fault(self, dispatch: Dispatch, fault: Exception) -> None:
        """Report a fault of the broker, and fail the dispatch that it affected unless the queue or a worker has it."""
        report(fault)
        if not (dispatch.completed or dispatch.waiting or dispatch.link):
            message = f"tykpy failed inside the broker: {type(fault).__name__} ({dispatch.name})"
            self.fail(dispatch, DispatchError(Status.INTERNAL, message))

    def abandon(self, dispatch: Dispatch, code: GrpcCode) -> None:
        """Complete a dispatch that nobody waits for any more; it is the caller's to say so."""
        now, link = monotonic_ns(), dispatch.link
        started = link.channel.execution_started_ns(dispatch.seq) if isinstance(link, Link) else 0
        assert dispatch.hook is not None
        hook_ns = max(0, now - started) if started else None
        self._count(dispatch, dispatch.hook.stats, code, now - dispatch.taken_ns, hook_ns)
        self.complete(dispatch)

    def complete(self, dispatch: Dispatch) -> None:
        """Mark a dispatch as completed without telling its caller; nothing more may happen to it."""
        dispatch.completed = True
        self._deadlines.discard(dispatch)
        if dispatch.link is None:
            self.held -= len(dispatch.body)
        if dispatch.waiting:
            self._pending.forget(dispatch)
            dispatch.body = b""  # the dispatch may stay in the queue for a while
        self.under_way -= 1
        if not self.under_way and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def release(self, dispatch: Dispatch) -> None:
        """Stop counting a completed dispatch: its worker is done with it."""
        self._deadlines.discard(dispatch)
        self.held -= len(dispatch.body)

    def _count_error(
        self, dispatch: Dispatch, stats: HookStats, error: DispatchError, hook_ns: int | None = None
    ) -> None:
        if error.rejection is not None:
            self.rejected[error.rejection] += 1
        # A dispatch that was refused has not been taken: it took no time.
        dispatch_ns = monotonic_ns() - dispatch.taken_ns if dispatch.taken_ns else 0
        self._count(dispatch, stats, CODE_OF_STATUS[error.status], dispatch_ns, hook_ns, error.message)

    def _count(
        self,
        dispatch: Dispatch,
        stats: HookStats,
        code: int,
        dispatch_ns: int,
        hook_ns: int | None,
        message: str = "",
    ) -> None:
        """Count a dispatch that has not succeeded, and tell the observers."""
        stats.count(dispatch.hook_type, code, dispatch_ns, hook_ns)
        _end_trace(dispatch, stats, code, dispatch_ns, message)
        for observer in (*self.observers, *self.failure_observers):
            attempt(observer.note, dispatch, stats, code, dispatch_ns, hook_ns, b"", message)

    async def idle(self) -> None:
        """Wait until nothing is under way. One caller at a time."""
        if self.under_way:
            self._idle = self._loop.create_future()
            await self._idle


def _end_trace(dispatch: Dispatch, stats: HookStats, code: int, dispatch_ns: int, message: str = "") -> None:
    """End the trace of a dispatch, if it has one, and keep its id with the counts."""
    trace = dispatch.trace
    if trace is not None:
        stats.keep_trace(dispatch.hook_type, code, dispatch_ns, trace.trace_id)
        trace.end(code, message)


def _note_run(dispatch: Dispatch, answer: Answer) -> int | None:
    """Learn from a call that failed, or for which nobody waits: hooks that wait in vain show the longest waits.

    Returns how long its hook ran, None if it was not run.
    """
    if not was_run(answer):
        dispatch.seq = 0
        return None
    if dispatch.hook is not None:
        dispatch.hook.times.learn(answer.handler_ns, answer.waited_ns)
    return answer.handler_ns
