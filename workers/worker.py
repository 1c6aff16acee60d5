"""The worker's loops: claim a request, run its hook, publish the answer.

Each thread is an execution slot of its own and does the same three steps; `async def` hooks leave the claiming thread
for one event loop, so that a single worker can hold many of them. A control thread hears from the broker.
"""

import asyncio
import gc
import logging
import os
import queue
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final

from ipc.errors import ControlClosedError
from ipc.frame import Packed, Status, pack_error
from ipc.layout import EXECUTION_SLOTS
from ipc.messages import Request
from ipc.worker_channel import WorkerChannel
from telemetry.log import Log, close_log, reopen_log
from telemetry.quiet_log import QuietLog
from workers.dispatcher import Dispatcher
from workers.errors import WorkerError
from workers.invocation import Invocation
from workers.limits import CpuBudget
from workers.load_watch import BrokenBundles
from workers.lookup import EVENT_META

log = Log("tykpy.worker")
_refusals: Final = QuietLog(log)

EXIT_BROKER_GONE: Final = 0
"""Nobody is left to report to, and nothing went wrong here."""


class Worker:
    """Runs the requests of one channel until the broker asks it to leave or is gone."""

    def __init__(
        self,
        channel: WorkerChannel,
        dispatcher: Dispatcher,
        threads: int,
        budget: CpuBudget | None = None,
        broken: BrokenBundles | None = None,
    ) -> None:
        """`budget`: of CPU, to be renewed by every dispatch. `broken` hears which bundles not to import from now on."""
        self._broken = broken or BrokenBundles()
        self._budget = budget
        self._channel = channel
        self._dispatcher = dispatcher
        self._threads = threads
        self._coroutines = _Coroutines(channel, range(threads, EXECUTION_SLOTS))

    def run(self) -> None:
        """Serve until told to leave; every claimed request is answered before this returns."""
        # What is loaded now stays; looking through it again at every collection would be for nothing.
        gc.collect()
        gc.freeze()
        threading.Thread(target=self._listen, name="control", daemon=True).start()
        others = [
            threading.Thread(target=self._serve, args=(slot,), name=f"hooks-{slot}") for slot in range(1, self._threads)
        ]
        for thread in others:
            thread.start()
        self._serve(0)
        for thread in others:
            thread.join()
        self._coroutines.finish()

    def _serve(self, slot: int) -> None:
        channel, budget = self._channel, self._budget
        while (request := channel.claim(slot)) is not None:
            started = time.monotonic_ns()
            if budget is not None:
                budget.renew(started)
            payload: Packed
            try:
                invocation = self._dispatcher.prepare(request.payload, request.lent)
                if invocation.is_async:
                    self._coroutines.start(request, invocation, slot)
                    continue
                payload, is_error = invocation.run(), False
            except WorkerError as error:
                payload, is_error = _refusal(error), True
            except Exception as error:  # noqa: BLE001 (the one place for what nobody expected)
                payload, is_error = _own_fault(error), True
            if request.lent is not None:
                request.lent.give_back()
            channel.answer(slot, request.seq, payload, is_error, time.monotonic_ns() - started)

    def _listen(self) -> None:
        control = self._channel.control
        try:
            while True:
                for message in control.receive():
                    if message.name == "trim":
                        self._channel.trim()
                    elif message.name == "ping":
                        control.send("pong")
                    elif message.name == "apis":
                        self._dispatcher.learn(message.body)
                    elif message.name == "reopen_log":
                        reopen_log()
                    elif message.name == "broken":
                        self._broken.add(message.body)
        except ControlClosedError:
            # The broker is gone, and with it everybody who waits for an answer: a hook that still runs must not
            # keep the process alive.
            close_log()
            os._exit(EXIT_BROKER_GONE)


class _Coroutines:
    """The event loop of the `async def` hooks, in a thread of its own that starts with the first of them."""

    def __init__(self, channel: WorkerChannel, slots: range) -> None:
        self._channel = channel
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._free = len(slots)

    def start(self, request: Request, invocation: Invocation, claimed: int) -> None:
        """Run the invocation on the loop; the thread that claimed it is free for the next request."""
        slot = self._slots.get()
        self._channel.move(request.seq, claimed, slot)
        loop = self._loop or self._start_loop()
        asyncio.run_coroutine_threadsafe(self._run(request, invocation, slot), loop)

    def finish(self) -> None:
        """Wait for what still runs, then end the loop."""
        if self._loop is None or self._thread is None:
            return
        for _ in range(self._free):
            self._slots.get()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _run(self, request: Request, invocation: Invocation, slot: int) -> None:
        started = time.monotonic_ns()
        payload: Packed
        try:
            payload, is_error = await self._in_time(request, invocation.run_async()), False
        except WorkerError as error:
            payload, is_error = _refusal(error), True
        except Exception as error:  # noqa: BLE001 (the one place for what nobody expected)
            payload, is_error = _own_fault(error), True
        if request.lent is not None:
            request.lent.give_back()
        self._channel.answer(slot, request.seq, payload, is_error, time.monotonic_ns() - started)
        self._slots.put(slot)

    async def _in_time(self, request: Request, running: Coroutine[Any, Any, Packed]) -> Packed:
        left = (request.deadline_ns - time.monotonic_ns()) / 1e9
        timeout = asyncio.timeout(left if request.deadline_ns else None)
        try:
            async with timeout:
                return await running
        except TimeoutError:
            raise WorkerError(Status.EXPIRED, "deadline exceeded; the hook was cancelled") from None

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=loop.run_forever, name="async-hooks")
                self._thread.start()
                self._loop = loop
            return self._loop


def _refusal(error: WorkerError) -> bytes:
    # What a hook did wrong is logged where it happened, with its traceback; unknown event handlers by the broker.
    if error.status is not Status.HOOK_FAILED and EVENT_META not in (error.meta or {}):
        message = f"{error.status.name}: {error.message}"
        _refusals.log(logging.WARNING, message, message)
    return pack_error(error.status, error.message, error.meta)


def _own_fault(error: Exception) -> bytes:
    fault = (type(error), error, error.__traceback__)
    _refusals.log(logging.ERROR, type(error).__name__, "a fault of tykpy itself", exc_info=fault)
    return pack_error(Status.INTERNAL, f"tykpy failed inside a worker: {type(error).__name__}: {error}")
