"""Descriptors that are kept for starting workers: nobody else gets them, and a worker starts with nothing but them."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.config import BrokerConfig
from broker.descriptors import DescriptorReserve
from broker.errors import WorkerStartError
from broker.pool.spawning import LASTING_FILES, STARTING_FILES, WorkerStarter, channel_options
from broker.pool.worker import Worker
from ipc.bodies import BodyStore

KEPT = 5


class Deaf:
    """Looks after workers that nobody listens to."""

    def worker_ready(self, worker: Worker) -> None:
        raise AssertionError("nobody reads what it says")

    def worker_lost(self, worker: Worker, why: str) -> None:
        raise AssertionError("nobody waits for its end")


def take_all() -> list[int]:
    """Every descriptor that there is."""
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    return taken


def give_back(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


@contextlib.contextmanager
def nothing_left() -> Iterator[list[int]]:
    """There is no descriptor more for this process; gives those that were left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Low enough to be reached, and above every number in use: a number above the limit cannot be opened again.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 50, hard))
    taken = take_all()
    try:
        yield taken
    finally:
        give_back(taken)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[WorkerStarter]:
    config = BrokerConfig(runtime_dir=tmp_path)
    bodies = BodyStore(channel_options(config.threads, config.max_message).store_capacity)
    starter = WorkerStarter(config, bodies)
    yield starter
    starter.close()
    bodies.close()


def end(worker: Worker) -> None:
    worker.process.kill()
    worker.process.reap()
    worker.channel.close()


def test_what_is_held_is_there_when_nothing_else_is() -> None:
    reserve = DescriptorReserve()
    reserve.hold(KEPT)
    with nothing_left():
        assert take_all() == []
        with reserve.lent():
            lent = take_all()
            assert len(lent) == KEPT
            give_back(lent)
        assert take_all() == []
        reserve.hold(KEPT - 2)
        fewer = take_all()
        assert len(fewer) == 2
        give_back(fewer)
        reserve.close()
        rest = take_all()
        assert len(rest) == KEPT
        give_back(rest)


def test_what_cannot_be_held_is_held_later() -> None:
    reserve = DescriptorReserve()
    with nothing_left() as taken:
        reserve.hold(KEPT)
        with reserve.lent():
            assert take_all() == []
        give_back(taken)
        reserve.refill()
        taken += take_all()
        with reserve.lent():
            lent = take_all()
            assert len(lent) == KEPT
            give_back(lent)
    reserve.close()


def test_a_worker_is_started_with_nothing_but_what_is_kept_for_it(starter: WorkerStarter) -> None:
    starter.keep_room(0)
    with nothing_left():
        worker = starter.start(0, Deaf())
    end(worker)


def test_without_that_it_is_not_started(starter: WorkerStarter) -> None:
    with nothing_left(), pytest.raises(WorkerStartError, match="Too many open files"):
        starter.start(0, Deaf())


def test_what_dead_workers_had_is_kept_for_their_successors(starter: WorkerStarter) -> None:
    """However often that happens, and whoever waits for descriptors meanwhile."""
    starter.keep_room(0)
    with nothing_left() as taken:
        for _ in range(5):
            worker = starter.start(0, Deaf())
            starter.keep_room(0)
            end(worker)
            starter.keep_room(1)
            taken += take_all()
        starter.keep_room(1)
        assert len(starter.reserve._held) >= STARTING_FILES
        assert len(starter.reserve._held) <= STARTING_FILES + LASTING_FILES
