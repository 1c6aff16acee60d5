"""Descriptors that are kept for starting workers: nobody else gets them, and a worker starts with nothing but them."""

import asyncio
import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import WorkerStartError
from tykpy.broker.host.descriptors import DescriptorReserve, DescriptorWatch
from tykpy.broker.pool.starting import LASTING_FILES, STARTING_FILES, WorkerStarter, channel_options
from tykpy.broker.pool.worker import Worker
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.ipc.bodies.store import BodyStore

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


def take_and_give_back() -> list[int]:
    """What there was."""
    taken = take_all()
    there = list(taken)
    give_back(taken)
    return there


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
    bodies = BodyStore(channel_options(config.most_threads, config.message_limit).store_capacity)
    starter = WorkerStarter(config, ZygoteKeeper(), bodies)
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
            assert len(take_and_give_back()) == KEPT
        assert take_all() == []
        reserve.hold(KEPT - 2)
        assert len(take_and_give_back()) == 2
        reserve.close()
        assert len(take_and_give_back()) == KEPT


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
            assert len(take_and_give_back()) == KEPT
    reserve.close()


def test_the_watch_looks_after_it() -> None:
    reserve = DescriptorReserve()
    loop = asyncio.new_event_loop()
    with nothing_left() as taken:
        reserve.hold(KEPT)
        give_back(taken)
        DescriptorWatch(loop, reserve, lambda loop, context: loop.default_exception_handler(context)).start()
        taken += take_all()
        reserve.close()
        assert len(take_and_give_back()) == KEPT
    loop.close()


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
        assert STARTING_FILES <= len(starter.reserve._held) <= STARTING_FILES + LASTING_FILES


def test_workers_that_died_together_are_all_started_again(starter: WorkerStarter) -> None:
    starter.keep_room(2)
    with nothing_left() as taken:
        workers = [starter.start(0, Deaf()), starter.start(1, Deaf())]
        starter.keep_room(0)
        taken += take_all()
        for worker in workers:
            end(worker)
        starter.keep_room(2)
        taken += take_all()
        successors = []
        for missing in (1, 0):
            successors.append(starter.start(0, Deaf()))
            starter.keep_room(missing)
            taken += take_all()
    for worker in successors:
        end(worker)
