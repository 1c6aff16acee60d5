"""Ask workers for the stacks of their threads and tasks; those that do not answer write them to the log instead."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tykpy.broker.pool.worker import Worker, WorkerPhase
from tykpy.ipc.errors import IpcError

log = logging.getLogger("tykpy.supervisor")

ANSWER_SECONDS: Final = 1.0
"""Time that a worker has to answer."""
MAX_TOTAL: Final = 4 * 1024 * 1024
"""Most characters in one answer to `tykpy stacks`."""

StackListener = Callable[[list[dict[str, Any]]], object]
"""Is given the rows of all workers: slot, pid, state, `stacks`, and why they are missing."""


@dataclass(eq=False)
class _Request:
    workers: Sequence[Worker]
    listener: StackListener
    timer: asyncio.TimerHandle | None = None
    texts: dict[int, str] = field(default_factory=dict)
    """By generation."""


class StackRequests:
    """The requests that are under way. Their texts are bounded where they are decoded."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._requests: list[_Request] = []

    def ask(self, workers: Sequence[Worker], listener: StackListener) -> None:
        """Ask workers, and call the listener as soon as all have answered or the time is up."""
        request = _Request(workers, listener)
        self._requests.append(request)
        request.timer = self._loop.call_later(ANSWER_SECONDS if workers else 0, self._finish, request)
        for worker in workers:
            try:
                worker.channel.control.send("stacks")
            except (IpcError, OSError) as error:
                log.debug("%s cannot be asked for its stacks: %s", worker, error)

    def answered(self, worker: Worker, text: str) -> None:
        """Handle a worker's answer."""
        for request in [one for one in self._requests if worker in one.workers]:
            request.texts[worker.generation] = text
            if len(request.texts) == len(request.workers):
                self._finish(request)

    def _finish(self, request: _Request) -> None:
        assert request.timer is not None
        request.timer.cancel()
        self._requests.remove(request)
        rows, left = [], MAX_TOTAL
        for worker in request.workers:
            text = request.texts.get(worker.generation)
            why = _why_silent(worker) if text is None else ""
            if text is not None and len(text) > left:
                text, why = None, f"left out, as there is too much of all together: tykpy stacks {worker.slot}"
            left -= len(text or "")
            rows.append(
                {
                    "slot": worker.slot,
                    "pid": worker.process.pid,
                    "state": worker.phase.value,
                    "stacks": text,
                    "why": why,
                }
            )
        request.listener(rows)


def _why_silent(worker: Worker) -> str:
    """Say why a worker has not answered; have it write its stacks if it can, even without the interpreter lock."""
    if worker.phase is WorkerPhase.ENDED:
        return "it has ended"
    if worker.process.is_stopped:
        return "does not answer: somebody has stopped it (SIGSTOP)"
    worker.process.dump()
    cause = (
        "it is loading bundles, or hangs"
        if worker.phase is WorkerPhase.STARTING
        else "it hangs, or a hook keeps the interpreter lock"
    )
    return f"does not answer: {cause}; the stacks of its threads are in the broker's log"
