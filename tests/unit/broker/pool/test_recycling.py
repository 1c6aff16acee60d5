"""When a worker is due."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import WorkerStartError
from tykpy.broker.pool.recycling import Recycler
from tykpy.broker.pool.supervisor import Supervisor
from tykpy.broker.pool.worker import Worker, WorkerOwner, WorkerPhase


def limits(requests: int, jitter: int) -> set[int]:
    """Return the limits of 200 new workers, if there are any."""
    supervisor: Any = SimpleNamespace(request_limit=None)
    loop = asyncio.new_event_loop()
    Recycler(loop, BrokerConfig(max_requests=requests, max_requests_jitter=jitter), supervisor)
    loop.close()
    return {supervisor.request_limit() for _ in range(200)} if supervisor.request_limit else set()


def test_jitter_spreads_recycling() -> None:
    found = limits(100, 50)
    assert found <= set(range(100, 151))
    assert len(found) > 10


@pytest.mark.parametrize(("requests", "expected"), [(0, set()), (7, {7})])
def test_without_jitter_the_limit_is_exact(requests: int, expected: set[int]) -> None:
    assert limits(requests, 0) == expected


class DueWorker:
    """The attributes of a worker that recycling uses."""

    slot, handled, request_limit = 0, 1, 1
    phase = WorkerPhase.READY


class ScarceSupervisor:
    """A supervisor that cannot start a worker at first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.tries = 0
        self._loop = loop

    def spawn(self, slot: int, owner: WorkerOwner) -> None:
        """Start a worker; the first time this fails."""
        self.tries += 1
        if self.tries == 1:
            raise WorkerStartError("no process can be started")
        self._loop.stop()


def test_a_failed_replacement_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tykpy.broker.pool.recycling.RETRY_DELAY", 0.001)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        scarce = ScarceSupervisor(loop)
        recycler = Recycler(loop, BrokerConfig(max_requests=1), cast(Supervisor, scarce))
        recycler._on_request_limit(cast(Worker, DueWorker()))
        assert scarce.tries == 1
        loop.run_forever()  # until it works
        assert scarce.tries == 2


def test_one_unreadable_worker_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    class Measured(DueWorker):
        def __init__(self, number: int) -> None:
            self.process = SimpleNamespace(pid=number)

    def memory_of(pid: int, limit: int) -> int:
        looked_at.append(pid)
        if pid == 1:
            raise LookupError
        return 0

    monkeypatch.setattr("tykpy.broker.pool.recycling.memory_of", memory_of)
    supervisor: Any = SimpleNamespace(serving=[Measured(number) for number in (1, 2)])
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        Recycler(loop, BrokerConfig(max_memory=1), supervisor)._look()
    assert looked_at == [1, 2]
