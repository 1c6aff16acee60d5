"""Serve requests: claim one, run its hook, publish the answer.

Every hook thread has an execution slot of its own and repeats these three steps; `hook_threads` decides which of them
claims. `async def` hooks move from the claiming thread to one event loop, so one worker can run many of them at a time.
A control thread reads the broker's messages.
"""

import gc
import os
from collections.abc import Coroutine
from contextvars import Context
from queue import SimpleQueue
from typing import Any, Final

from tyk.gateway.backend import READS
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.clock import monotonic_ns
from tykpy.ipc.errors import ControlClosedError
from tykpy.ipc.frame import Packed
from tykpy.ipc.ring.layout import EXECUTION_SLOTS, FLAG_MEASURE, FLAG_RECORD, FLAG_RETRY, FLAG_SHARES
from tykpy.telemetry.log import close_log, explain_in_log, reopen_log, set_level
from tykpy.telemetry.stacks import stacks_of_process
from tykpy.workers.async_hooks import AsyncCalls
from tykpy.workers.dispatch.failure import error_frame
from tykpy.workers.dispatch.prepare import HookDispatcher
from tykpy.workers.dispatch.reads import RecordedReads, with_reads
from tykpy.workers.dispatch.slow_hooks import SlowHooks, hook_on_stack
from tykpy.workers.hook_threads import FIRST, HookThreads
from tykpy.workers.lifespan import Lifespan
from tykpy.workers.metering import Meter
from tykpy.workers.process.guard import guarded, start_thread
from tykpy.workers.process.rlimits import CpuBudget
from tykpy.workers.replays import Replays

EXIT_BROKER_GONE: Final = 0
"""Exit code of a worker whose broker is gone: nobody reads it, and nothing went wrong in the worker."""


class WorkerLoop:
    """Runs the requests of one channel until the broker drains it or is gone."""

    _dispatcher: HookDispatcher

    def __init__(
        self, channel: WorkerChannel, threads: int, budget: CpuBudget | None = None, slow_hook: float = 0.0
    ) -> None:
        """Start the permanent threads, which wait for `run`; up to `threads` run hooks at the same time.

        Every dispatch renews the CPU `budget`. The stack of a hook is logged after `slow_hook` seconds; 0: never.
        Call this before any bundle is loaded: a library may replace `threading`
        (gevent.monkey), and a thread started after that would never run.
        """
        self._budget = budget
        self._channel = channel
        self._begin: SimpleQueue[None] = SimpleQueue()
        self._async_calls = AsyncCalls(channel, range(threads, EXECUTION_SLOTS))
        self._threads = HookThreads(threads, self._serve, channel.show_threads)
        self._replays = Replays.open()
        self._meters = [Meter() for _ in range(threads)]
        start_thread("control", self._listen_when_begun)
        if slow_hook:
            SlowHooks(slow_hook, self._async_calls.tasks).start()

    def run(self, dispatcher: HookDispatcher, lifespan: Lifespan) -> None:
        """Serve until the worker is drained. Every claimed request is answered before bundles are stopped."""
        # Everything loaded so far stays loaded: exempt it from garbage collection.
        gc.collect()
        gc.freeze()
        self._dispatcher = dispatcher
        self._begin.put(None)
        guarded(self._serve, FIRST)
        self._threads.join()
        self._async_calls.drain()
        if lifespan.has_stops:
            self._channel.control.send("stopping")
            lifespan.stop()
        self._async_calls.finish()
        for meter in self._meters:
            meter.close()

    def run_async(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine on the event loop of the hooks; raises whatever it raises."""
        self._async_calls.run_coroutine(coroutine)

    def abandon(self) -> None:
        """Release everything that belongs to the worker, in a child that plugin code has forked."""
        self._async_calls.abandon()
        self._channel.abandon()

    def _serve(self, slot: int) -> None:
        channel, threads, budget = self._channel, self._threads, self._budget
        leading, meter, replays = threads.leading, self._meters[slot], self._replays
        while (request := channel.claim(slot)) is not None:
            started = monotonic_ns()
            seq, flags = request.seq, request.flags
            leading[seq] = True
            payload: Packed
            # Nothing that a hook leaves in its context reaches another call.
            context = Context()
            if flags & FLAG_RECORD:
                context.run(READS.set, RecordedReads())
            if flags & FLAG_MEASURE:
                meter.begin()
            try:
                if budget is not None:
                    budget.renew(started)
                if replays is not None and (replayed := replays.find(request.payload)) is not None:
                    context.run(READS.set, replayed)
                    started = monotonic_ns()
                attempt = 2 if flags & FLAG_RETRY else 1
                invocation = context.run(
                    self._dispatcher.prepare, request.payload, request.borrowed, request.deadline_ns, attempt
                )
                if invocation.is_async:
                    self._async_calls.start(request, invocation, slot, context)
                    if leading.pop(seq, False) or threads.rejoin(slot):
                        continue
                    return
                if flags & FLAG_SHARES and leading.pop(seq, False):
                    threads.hand_over()
                payload, is_error = context.run(invocation.run), False
            except BaseException as error:  # noqa: BLE001 (any exception fails this call only)
                payload, is_error = error_frame(error), True
            if request.borrowed is not None:
                request.borrowed.give_back()
            time = monotonic_ns() - started
            if flags & FLAG_MEASURE:
                time = meter.end(time, threads.busy)
            if flags & FLAG_RECORD:
                payload = context.run(with_reads, payload, channel.max_message)
            channel.answer(slot, seq, payload, is_error, time)
            if not (leading.pop(seq, False) or threads.rejoin(slot)):
                return
        threads.end()

    def _stacks(self) -> str:
        try:
            return stacks_of_process(self._async_calls.all_tasks(), hook_on_stack)
        except Exception as error:  # noqa: BLE001 (what plugins have made of threads and tasks must not end the worker)
            return f"they cannot be read: {type(error).__name__}\n"

    def _listen_when_begun(self) -> None:
        self._begin.get()
        control = self._channel.control
        try:
            while True:
                for message in control.receive():
                    if message.name == "trim":
                        self._channel.trim()
                    elif message.name == "ping":
                        control.send("pong")
                    elif message.name == "lead":
                        self._threads.relieve(message.body)
                        control.send("leads")
                    elif message.name == "apis":
                        self._dispatcher.learn(message.body)
                    elif message.name == "reopen_log":
                        reopen_log()
                    elif message.name == "log_level":
                        set_level(message.body)
                    elif message.name == "names":
                        explain_in_log(message.body)
                    elif message.name == "stacks":
                        control.send("stacks", {"text": self._stacks()})
        except ControlClosedError:
            # The broker is gone, so nobody waits for an answer. A running hook must not keep the process alive.
            close_log()
            os._exit(EXIT_BROKER_GONE)
