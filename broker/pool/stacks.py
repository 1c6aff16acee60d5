"""Ask workers for the stacks of their threads and tasks; those that do not answer write them when they get a signal."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tykpy.broker.pool.worker import Worker, WorkerPhase
from tykpy.ipc.channel.stacks import MAX_STACKS
from tykpy.ipc.errors import IpcError

log = logging.getLogger("tykpy.supervisor")

ANSWER_SECONDS: Final = 1.0
"""Time that a worker has to answer, and to write its stacks after that."""
LOOK_SECONDS: Final = 0.1
"""A worker that has written its stacks, and no more for this time, is done."""
MAX_TOTAL: Final = 4 * 1024 * 1024
"""Most characters in one answer to `tykpy stacks`."""

StackListener = Callable[[list[dict[str, Any]]], object]
"""Is given the rows of all workers: slot, pid, state, `stacks`, and why they are missing or come without tasks."""


@dataclass(eq=False)
class _Request:
    workers: Sequence[Worker]
    listener: StackListener
    timer: asyncio.TimerHandle | None = None
    texts: dict[int, str] = field(default_factory=dict)
    """Answers by generation."""
    written: dict[int, bytes] = field(default_factory=dict)
    """What workers have written after the signal, by generation."""
    is_signalled: bool = False

    def silent(self) -> Iterator[Worker]:
        """Yield the workers that can still write their stacks."""
        for worker in self.workers:
            if worker.generation not in self.texts and worker.phase is not WorkerPhase.ENDED:
                yield worker


class StackRequests:
    """The requests that are under way. Their texts are bounded where they are decoded."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._requests: list[_Request] = []

    def ask(self, workers: Sequence[Worker], listener: StackListener) -> None:
        """Ask workers, and call the listener as soon as all have answered or the time is up."""
        request = _Request(workers, listener)
        self._requests.append(request)
        request.timer = self._loop.call_later(ANSWER_SECONDS if workers else 0, self._signal_silent, request)
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

    def _signal_silent(self, request: _Request) -> None:
        """Have the workers that have not answered write their stacks, as they can without the interpreter lock."""
        for worker in request.silent():
            self._collect(worker)
            worker.process.ask_for_stacks()
        request.is_signalled = True
        self._look(request, int(ANSWER_SECONDS / LOOK_SECONDS))

    def _look(self, request: _Request, times: int) -> None:
        """Read what has been written, until no more comes."""
        done = True
        for worker in request.silent():
            is_more = self._collect(worker)
            done = done and not is_more and (worker.generation in request.written or worker.process.is_stopped)
        if done or not times:
            self._finish(request)
        else:
            request.timer = self._loop.call_later(LOOK_SECONDS, self._look, request, times - 1)

    def _collect(self, worker: Worker) -> bool:
        """Read what a worker has written for all requests that wait for it; drop what came after the end of others."""
        written = worker.channel.written_stacks()
        for one in self._requests:
            if written and one.is_signalled and worker in one.workers:
                one.written[worker.generation] = one.written.get(worker.generation, b"") + written
        return bool(written)

    def _finish(self, request: _Request) -> None:
        assert request.timer is not None
        request.timer.cancel()
        self._requests.remove(request)
        rows, left = [], MAX_TOTAL
        for worker in request.workers:
            text, why = request.texts.get(worker.generation), ""
            if text is None:
                written = request.written.get(worker.generation, b"")[:MAX_STACKS]
                text, why = written.decode("ascii", "backslashreplace") or None, _why_silent(worker)
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
    if worker.phase is WorkerPhase.ENDED:
        return "it has ended"
    if worker.process.is_stopped:
        return "does not answer: somebody has stopped it (SIGSTOP)"
    if worker.phase is WorkerPhase.STARTING:
        return "does not answer: it is loading bundles, or hangs"
    return "does not answer: it hangs, or a hook keeps the interpreter lock"
