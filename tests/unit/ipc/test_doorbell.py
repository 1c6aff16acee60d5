"""Doorbells: a token is taken once, by one of the two who may."""

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Thread

import pytest

from ipc import doorbell
from ipc.doorbell import ClaimDoorbell, EventDoorbell, PipeDoorbell, RequestDoorbell
from ipc.errors import RingCorruptError


@pytest.fixture(params=["two open files", "one open file"])
def bells(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RequestDoorbell, ClaimDoorbell]]:
    if request.param == "one open file":
        original = os.open

        def without_proc(path: str, flags: int, mode: int = 0o777) -> int:
            if path.startswith("/proc/"):
                raise FileNotFoundError(path)
            return original(path, flags, mode)

        monkeypatch.setattr(os, "open", without_proc)
    with ExitStack() as own, ExitStack() as worker:
        broker = RequestDoorbell(own, worker)
        claims = ClaimDoorbell(*map(os.dup, broker.worker_fds))
        try:
            yield broker, claims
        finally:
            claims.close()


def test_a_worker_claims_no_more_than_it_asks_for(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, worker = bells
    broker.ring(3)
    assert worker.take(1) == 1
    assert worker.take(5) == 2


def test_the_broker_takes_back_what_is_left(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, worker = bells
    broker.ring(5)
    assert worker.take(2) == 2
    assert broker.take_back(5) == 3
    assert broker.take_back(5) == 0


def test_the_broker_believes_no_more_tokens_than_it_has_rung(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, _ = bells
    broker.ring(1)
    os.write(broker.worker_fds[1], b"\0" * 100)
    assert broker.take_back(1) == 1


def test_a_wake_claims_nothing(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    _, worker = bells
    worker.wake()
    assert worker.take(1) == 0


def test_the_broker_does_not_take_a_wake_for_a_token_and_leaves_it(
    bells: tuple[RequestDoorbell, ClaimDoorbell],
) -> None:
    broker, worker = bells
    broker.ring(2)
    worker.wake()
    assert broker.take_back(2) == 2
    assert worker.take(1) == 0


def test_a_worker_waits_for_a_token(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, worker = bells
    taken: list[int] = []
    thread = Thread(target=lambda: taken.append(worker.take(4)))
    thread.start()
    broker.ring(1)
    thread.join()
    assert taken == [1]


def test_a_pipe_that_the_worker_filled_is_corruption(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, _ = bells
    writer = broker.worker_fds[1]
    while select.select([], [writer], [], 0)[1]:
        os.write(writer, bytes(4096))
    with pytest.raises(RingCorruptError, match="full"):
        broker.ring(1)


@pytest.mark.parametrize("create", [EventDoorbell.create, PipeDoorbell.create])
def test_answers_are_counted(create: type[EventDoorbell]) -> None:
    bell = create()  # type: ignore[call-arg]
    assert bell.take_all() == 0
    bell.ring(1)
    bell.ring(4)
    assert bell.take_all() == 5
    assert bell.take_all() == 0
    bell.close()


def test_pipes_count_where_there_is_no_eventfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    bell = doorbell.create_answer_doorbell()
    assert bell.kind == "pipe"
    assert len(bell.fds) == doorbell.ANSWER_FDS[bell.kind]
    bell.close()
