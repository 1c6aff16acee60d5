"""Requests for stacks that a worker cannot answer: what it writes reaches everybody who asked, and nobody else."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tykpy.broker.pool import stacks
from tykpy.broker.pool.stacks import StackRequests
from tykpy.broker.pool.worker import WorkerPhase


class SilentWorker:
    """A worker that writes its stacks when it gets the signal; stands for itself, its channel and its process."""

    def __init__(self) -> None:
        self.generation, self.slot, self.pid, self.phase, self.is_stopped = 1, 0, 7, WorkerPhase.READY, False
        self.channel = self.process = self
        self.control = SimpleNamespace(send=lambda _name: None)
        self.pipe = b"of an earlier request"
        self.signals = 0
        self.is_slow = False

    def ask_for_stacks(self) -> None:
        self.signals += 1
        self.pipe += f"dump {self.signals};".encode()
        self.is_slow = True

    def written_stacks(self) -> bytes:
        """Return what was written, which takes a moment."""
        if self.is_slow:
            self.is_slow = False
            return b""
        written, self.pipe = self.pipe, b""
        return written


def test_requests_at_the_same_time_take_nothing_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(stacks, "LOOK_SECONDS", 0.001)
    worker = cast(Any, SilentWorker())

    async def ask_twice() -> list[str]:
        loop = asyncio.get_running_loop()
        requests, done = StackRequests(loop), [loop.create_future() for _ in range(2)]
        for future in done:
            requests.ask([worker], future.set_result)
        return [rows[0]["stacks"] for rows in await asyncio.gather(*done)]

    assert asyncio.run(ask_twice()) == ["dump 1;dump 2;", "dump 2;"]
