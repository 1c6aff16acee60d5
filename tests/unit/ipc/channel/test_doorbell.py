"""Doorbells: a token is taken once, by one of the two who may."""

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread

import pytest

from tykpy.ipc.channel.doorbell import AnswerDoorbell, ClaimDoorbell, RequestDoorbell, RingBell
from tykpy.ipc.errors import RingCorruptError


@pytest.fixture
def bells() -> Iterator[tuple[RequestDoorbell, ClaimDoorbell]]:
    with ExitStack() as own, ExitStack() as worker:
        broker = RequestDoorbell(own, worker)
        claims = ClaimDoorbell(os.dup(broker.worker_fd))
        try:
            yield broker, claims
        finally:
            claims.close()


@contextmanager
def forced_open(broker: RequestDoorbell) -> Iterator[int]:
    """The end of the pipe that no worker is given: the kernel opens it for whoever owns the pipe."""
    with open(f"/proc/self/fd/{broker.worker_fd}", "wb", buffering=0) as writer:
        yield writer.fileno()


def test_a_worker_claims_one_at_a_time(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, worker = bells
    broker.ring(3)
    assert worker.take()
    assert broker.take_back(3) == 2


def test_the_broker_takes_back_what_is_left(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, worker = bells
    broker.ring(5)
    assert [worker.take(), worker.take()] == [True, True]
    assert broker.take_back(5) == 3
    assert broker.take_back(5) == 0


def test_a_worker_has_nothing_to_write_tokens_to(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, _ = bells
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(broker.worker_fd, b"\0")


@pytest.mark.parametrize("forged", [b"\0", b"\2", b"\0" * 5000])
def test_tokens_that_nobody_has_rung_are_corruption(
    bells: tuple[RequestDoorbell, ClaimDoorbell], forged: bytes
) -> None:
    broker, _ = bells
    broker.ring(1)
    with forced_open(broker) as writer:
        os.write(writer, forged)
    with pytest.raises(RingCorruptError, match="nobody has rung"):
        broker.take_back(1)


def test_the_end_marker_claims_nothing_and_stays(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, worker = bells
    broker.ring(2)
    broker.end()
    assert [worker.take() for _ in range(5)] == [True, True, False, False, False]


def test_taking_back_tokens_leaves_the_end_marker(
    bells: tuple[RequestDoorbell, ClaimDoorbell],
) -> None:
    broker, worker = bells
    broker.ring(2)
    broker.end()
    broker.end()
    assert broker.take_back(2) == 2
    assert broker.take_back(2) == 0
    assert not worker.take()


def test_the_brokers_death_is_the_end() -> None:
    with ExitStack() as worker:
        with ExitStack() as own:
            claims = ClaimDoorbell(os.dup(RequestDoorbell(own, worker).worker_fd))
        assert not claims.take()
        claims.close()


def test_a_worker_waits_for_a_token(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, worker = bells
    taken: list[bool] = []
    thread = Thread(target=lambda: taken.append(worker.take()))
    thread.start()
    broker.ring(1)
    thread.join()
    assert taken == [True]


def test_a_pipe_that_the_worker_filled_is_corruption(bells: tuple[RequestDoorbell, ClaimDoorbell]) -> None:
    broker, _ = bells
    with forced_open(broker) as writer:
        while select.select([], [writer], [], 0)[1]:
            os.write(writer, bytes(4096))
    with pytest.raises(RingCorruptError, match="full"):
        broker.ring(1)
    with pytest.raises(RingCorruptError, match="full"):
        broker.end()


def test_answers_are_counted() -> None:
    with ExitStack() as ends:
        broker = AnswerDoorbell(ends, ends)
        worker = RingBell(broker.worker_fd)
        assert broker.take_all() == 0
        worker.ring(1)
        worker.ring(4)
        assert broker.take_all() == 5
        assert broker.take_all() == 0


def test_a_worker_cannot_make_the_broker_wait() -> None:
    """Whether a read waits is a property of the open file, and that of an eventfd is shared."""
    with ExitStack() as ends:
        broker = AnswerDoorbell(ends, ends)
        os.set_blocking(broker.worker_fd, True)
        assert broker.take_all() == 0


def test_a_counter_at_its_maximum_is_only_a_number() -> None:
    with ExitStack() as ends:
        broker = AnswerDoorbell(ends, ends)
        RingBell(broker.worker_fd).ring(2**64 - 2)
        assert broker.take_all() == 2**64 - 2
