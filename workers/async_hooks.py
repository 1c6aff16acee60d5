"""Run `async def` hooks on one event loop in a thread of its own. No hook can end it for the others.

The loop is made before any bundle is loaded: making it may fail if there are no descriptors left, and a library that
replaces `threading` or `select` (gevent.monkey) would leave it without a thread or a selector of its own.
"""

import asyncio
from collections.abc import Coroutine
from contextvars import Context, copy_context
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final

from tykpy.bundles.async_call import ASYNC_CALL, AsyncCall
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.plugin_errors import class_name, traceback_of
from tykpy.ipc.channel.messages import Request
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.clock import monotonic_ns
from tykpy.ipc.frame import Packed, Status
from tykpy.ipc.ring.layout import FLAG_RECORD
from tykpy.telemetry.log import Log
from tykpy.workers.dispatch.failure import error_frame
from tykpy.workers.dispatch.invocation import Invocation
from tykpy.workers.dispatch.reads import with_reads
from tykpy.workers.process.guard import give_up, start_thread
from tykpy.workers.shared_loop import SharedLoop

_log: Final = Log("tykpy.worker")

_NS_PER_S: Final = 1_000_000_000
# Bound before plugins are imported, which may replace them.
_Task: Final = asyncio.Task
_all_tasks: Final = asyncio.all_tasks
_unregister_task: Final = asyncio._unregister_task


class AsyncCalls:
    """Runs invocations on the loop, each in an execution slot."""

    def __init__(self, channel: WorkerChannel, slots: range) -> None:
        """Make and start the loop. Raises OSError or RuntimeError if there are no descriptors or threads left."""
        self._channel = channel
        self._free = len(slots)
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._calls: dict[int, AsyncCall] = {}
        """By slot. The loop itself holds only weak references to its tasks."""
        self._loop = SharedLoop()
        self._ended: SimpleQueue[None] = SimpleQueue()
        start_thread("async-hooks", self._run)

    def start(self, request: Request, invocation: Invocation, claimed: int, context: Context) -> None:
        """Run the invocation on the loop, in `context`, and free the thread that claimed it for the next request."""
        slot = self._slots.get()
        self._channel.move(request.seq, claimed, slot)
        try:
            self._loop.call_soon_threadsafe(self._begin, request, invocation, slot, context, context=context)
        except BaseException:
            self._channel.move(request.seq, slot, claimed)
            self._slots.put(slot)
            raise

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks of the running calls, for another thread to look at."""
        return [call.task for call in list(self._calls.values()) if call.task is not None]

    def all_tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks of the running calls, and those that their hooks have started."""
        return [*self.tasks(), *_all_tasks(self._loop)]

    def run_coroutine(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine on the loop, and wait for its end; raises whatever it raises."""
        ended: SimpleQueue[BaseException | None] = SimpleQueue()

        async def run() -> None:
            error = None
            try:
                await coroutine
            except BaseException as raised:  # noqa: BLE001 (handed to the caller)
                error = raised
            ended.put(error)

        tasks: list[asyncio.Task[None]] = []
        context = copy_context()
        self._loop.call_soon_threadsafe(lambda: tasks.append(_Task(run(), loop=self._loop, context=context)))
        if (error := ended.get()) is not None:
            raise error

    def drain(self) -> None:
        """Wait for the running calls; no more may be started."""
        for _ in range(self._free):
            self._slots.get()

    def finish(self) -> None:
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.end)
        self._ended.get()

    def abandon(self) -> None:
        """Leave the calls to the parent process."""
        self._loop.abandon()

    def _run(self) -> None:
        while True:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # asyncio lets these pass to the caller of `run_forever`.
                self._fail_origin(error)
            else:
                break
        self._loop.dispose()
        self._ended.put(None)

    def _fail_origin(self, error: BaseException) -> None:
        call = _call_of(traceback_of(error))
        _log.error(
            "a task or callback of an async hook raised %s",
            class_name(error),
            exc_info=(type(error), error, traceback_of(error)),
        )
        if call is not None:
            call.fail(error)

    def _begin(self, request: Request, invocation: Invocation, slot: int, context: Context) -> None:
        try:
            call = self._calls[slot] = AsyncCall()
            # `create_task` might use a plugin's task factory.
            running = self._complete(call, request, invocation, slot)
            call.task = _Task(running, loop=self._loop, context=context)
            # Keep hooks from cancelling other calls that they find in `asyncio.all_tasks`.
            _unregister_task(call.task)
        except BaseException as error:  # noqa: BLE001 (the loop would only log it and lose the call)
            give_up(error)

    async def _complete(self, call: AsyncCall, request: Request, invocation: Invocation, slot: int) -> None:
        started = monotonic_ns()
        payload: Packed
        try:
            payload, is_error = await self._in_time(call, request.deadline_ns, invocation), False
        except BaseException as error:  # noqa: BLE001 (any exception fails this call only)
            payload, is_error = error_frame(error), True
        try:
            if request.borrowed is not None:
                request.borrowed.give_back()
            time = monotonic_ns() - started
            if request.flags & FLAG_RECORD:
                payload = with_reads(payload, self._channel.max_message)
            self._channel.answer(slot, request.seq, payload, is_error, time)
            del self._calls[slot]
            self._slots.put(slot)
        except BaseException as error:  # noqa: BLE001 (nobody reads the result of this task)
            give_up(error)

    async def _in_time(self, call: AsyncCall, deadline_ns: int, invocation: Invocation) -> Packed:
        ASYNC_CALL.set(call)
        timer = self._loop.call_at(deadline_ns / _NS_PER_S, call.expire) if deadline_ns else None
        try:
            return await invocation.run_async()
        except asyncio.CancelledError:
            if not call.is_expired:
                raise
            raise WorkerError(Status.EXPIRED, "deadline exceeded; the hook was cancelled") from None
        finally:
            if timer is not None:
                timer.cancel()


def _call_of(trace: TracebackType | None) -> AsyncCall | None:
    """Return the call in whose context the loop ran the callback that a traceback shows."""
    while trace is not None:
        handle = trace.tb_frame.f_locals.get("self")
        if isinstance(handle, asyncio.Handle):
            return handle._context.get(ASYNC_CALL)  # type: ignore[attr-defined, no-any-return]
        trace = trace.tb_next
    return None
