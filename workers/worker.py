"""The worker's loops: claim a request, run its hook, publish the answer.

Each thread is an execution slot of its own and does the same three steps; `async def` hooks leave the claiming thread
for one event loop, so that a single worker can hold many of them. A control thread hears from the broker.
"""

import gc
import os
from queue import SimpleQueue
from time import monotonic_ns
from typing import Final

from ipc.errors import ControlClosedError
from ipc.frame import Packed
from ipc.layout import EXECUTION_SLOTS
from ipc.worker_channel import WorkerChannel
from telemetry.log import close_log, explain_in_log, reopen_log
from workers.async_calls import AsyncCalls
from workers.dispatcher import Dispatcher
from workers.failure import error_frame
from workers.guard import guarded, start_thread
from workers.limits import CpuBudget

EXIT_BROKER_GONE: Final = 0
"""Nobody is left to report to, and nothing went wrong here."""


class Worker:
    """Runs the requests of one channel until the broker asks it to leave or is gone."""

    _dispatcher: Dispatcher

    def __init__(self, channel: WorkerChannel, threads: int, budget: CpuBudget | None = None) -> None:
        """Start all threads, which wait for `run`.

        `budget`: of CPU, to be renewed by every dispatch. To be called before any bundle is loaded: a library may
        replace `threading` (gevent.monkey), and a thread started then would never run.
        """
        self._budget = budget
        self._channel = channel
        self._begin: SimpleQueue[None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._async_calls = AsyncCalls(channel, range(threads, EXECUTION_SLOTS))
        self._others = range(1, threads)
        for slot in self._others:
            start_thread(f"hooks-{slot}", self._serve_when_begun, slot)
        start_thread("control", self._listen_when_begun)

    def run(self, dispatcher: Dispatcher) -> None:
        """Serve until told to leave; every claimed request is answered before this returns."""
        # What is loaded now stays; looking through it again at every collection would be for nothing.
        gc.collect()
        gc.freeze()
        self._dispatcher = dispatcher
        for _ in range(len(self._others) + 1):
            self._begin.put(None)
        guarded(self._serve, 0)
        for _ in self._others:
            self._ended.get()
        self._async_calls.finish()

    def abandon(self) -> None:
        """Let go of everything that is the worker's, in a child that plugin code has forked."""
        self._async_calls.abandon()
        self._channel.abandon()

    def _serve_when_begun(self, slot: int) -> None:
        self._begin.get()
        self._serve(slot)
        self._ended.put(None)

    def _serve(self, slot: int) -> None:
        channel, budget = self._channel, self._budget
        while (request := channel.claim(slot)) is not None:
            started = monotonic_ns()
            payload: Packed
            try:
                if budget is not None:
                    budget.renew(started)
                invocation = self._dispatcher.prepare(request.payload, request.lent)
                if invocation.is_async:
                    self._async_calls.start(request, invocation, slot)
                    continue
                payload, is_error = invocation.run(), False
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is this call's)
                payload, is_error = error_frame(error), True
            if request.lent is not None:
                request.lent.give_back()
            channel.answer(slot, request.seq, payload, is_error, monotonic_ns() - started)

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
                    elif message.name == "apis":
                        self._dispatcher.learn(message.body)
                    elif message.name == "reopen_log":
                        reopen_log()
                    elif message.name == "names":
                        explain_in_log(message.body)
        except ControlClosedError:
            # The broker is gone, and with it everybody who waits for an answer: a hook that still runs must not
            # keep the process alive.
            close_log()
            os._exit(EXIT_BROKER_GONE)
