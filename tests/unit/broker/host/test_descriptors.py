"""Descriptors reserved for starting workers: nobody else gets them, and they are enough to start one."""

import asyncio
import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import WorkerStartError
from tykpy.broker.host.descriptors import (
    MIN_CONNECTIONS,
    OWN,
    PER_WORKER,
    DescriptorReserve,
    DescriptorWatch,
    connections_allowed,
)
from tykpy.broker.pool.starting import LASTING_FILES, STARTING_FILES, WorkerStarter, channel_options
from tykpy.broker.pool.worker import Worker
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.ipc.bodies.store import BodyStore

KEPT = 5


class Deaf:
    """An owner that ignores what happens to its workers."""

    def worker_ready(self, worker: Worker) -> None:
        raise AssertionError("nobody reads what it says")

    def worker_lost(self, worker: Worker, why: str) -> None:
        raise AssertionError("nobody waits for its end")


def take_all() -> list[int]:
    """Take every descriptor that there is."""
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    return taken


def take_and_give_back() -> list[int]:
    """Give back the descriptors that were taken."""
    taken = take_all()
    there = list(taken)
    give_back(taken)
    return there


def give_back(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


@contextlib.contextmanager
def nothing_left() -> Iterator[list[int]]:
    """Leave no descriptor to this process; return those that were taken."""
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


def test_reserved_descriptors_are_there_when_needed() -> None:
    reserve = DescriptorReserve()
    reserve.hold(KEPT)
    with nothing_left():
        assert take_all() == []
        with reserve.released():
            assert len(take_and_give_back()) == KEPT
        assert take_all() == []
        reserve.hold(KEPT - 2)
        assert len(take_and_give_back()) == 2
        reserve.close()
        assert len(take_and_give_back()) == KEPT


def test_missing_descriptors_are_reserved_later() -> None:
    reserve = DescriptorReserve()
    with nothing_left() as taken:
        reserve.hold(KEPT)
        with reserve.released():
            assert take_all() == []
        give_back(taken)
        reserve.refill()
        taken += take_all()
        with reserve.released():
            assert len(take_and_give_back()) == KEPT
    reserve.close()


def test_the_watch_refills_the_reserve() -> None:
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


def test_the_reserve_is_enough_to_start_a_worker(starter: WorkerStarter) -> None:
    starter.keep_room(0)
    with nothing_left():
        worker = starter.start(0, Deaf())
    end(worker)


def test_without_a_reserve_no_worker_is_started(starter: WorkerStarter) -> None:
    with nothing_left(), pytest.raises(WorkerStartError, match="Too many open files"):
        starter.start(0, Deaf())


def test_descriptors_of_dead_workers_are_reserved(starter: WorkerStarter) -> None:
    """However often workers die, and whatever else needs descriptors meanwhile."""
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


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The limits that the system reports, changed by the test."""
    values = {"soft": 1024, "hard": 4096}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (values["soft"], values["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: values.update(soft=both[0], hard=both[1]))
    return values


def test_a_limit_that_is_high_enough_is_left_alone(limits: dict[str, int]) -> None:
    assert connections_allowed(100, 2) == 100
    assert limits == {"soft": 1024, "hard": 4096}


def test_the_soft_limit_is_raised_only_as_needed(limits: dict[str, int]) -> None:
    assert connections_allowed(2000, 2) == 2000
    assert limits == {"soft": 2000 + OWN + 2 * PER_WORKER, "hard": 4096}


def test_connections_are_limited_by_the_hard_limit(limits: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    allowed = connections_allowed(16_384, 2)
    assert allowed == 4096 - OWN - 2 * PER_WORKER
    assert limits["soft"] == 4096
    assert f"at most {allowed} connections instead of 16384 (--max-connections)" in caplog.text


def test_some_connections_are_always_allowed(limits: dict[str, int]) -> None:
    limits.update(soft=64, hard=64)
    assert connections_allowed(1000, 512) == MIN_CONNECTIONS
    assert connections_allowed(3, 512) == 3


def test_without_a_limit_there_is_nothing_to_raise(limits: dict[str, int]) -> None:
    limits.update(soft=resource.RLIM_INFINITY, hard=resource.RLIM_INFINITY)
    assert connections_allowed(16_384, 2) == 16_384
    limits.update(soft=1024)
    assert connections_allowed(16_384, 2) == 16_384
    assert limits["hard"] == resource.RLIM_INFINITY
