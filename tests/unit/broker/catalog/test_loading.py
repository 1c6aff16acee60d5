"""Which bundle is blamed for the end of a worker, and for how long it is not imported."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tykpy.broker.catalog.loading import MAX_STRIKES, MAX_VERSIONS, BundleLoads
from tykpy.broker.config import BrokerConfig
from tykpy.broker.pool.process import Ending
from tykpy.broker.pool.worker import BundleVersion, Worker

ITSELF = Ending("exited with code 5", by_itself=True)
OUTSIDE = Ending("was ended by SIGKILL", by_itself=False)
BUNDLE = BundleVersion("/b/a.py", "a.py", "1")


class Bench:
    """A BundleLoads, and workers for it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.watch = BundleLoads(self.loop, BrokerConfig(ready_timeout=60, load_timeout=30))

    def worker(self) -> Worker:
        return Worker(0, 1, cast(Any, None), cast(Any, SimpleNamespace(pid=0)), cast(Any, None))

    def loses(self, ending: Ending, source: BundleVersion = BUNDLE, *, failure: str | None = None) -> bool:
        """End a worker while it loads the bundle; say whether the bundle is blamed."""
        worker = self.worker()
        self.watch.loading(worker, source)
        worker.failure = failure
        self.watch.ended(worker, ending)
        worker.end_patience()
        return worker.retry_at_once

    def loads(self, source: BundleVersion = BUNDLE) -> None:
        """Have a worker load the bundle."""
        worker = self.worker()
        self.watch.loading(worker, source)
        self.watch.loaded(worker)
        worker.end_patience()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.close()


def test_a_worker_that_ends_itself_blames_its_bundle(bench: Bench) -> None:
    assert bench.loses(ITSELF)
    told = {"path": "/b/a.py", "version": "1", "reason": "the worker that loaded it exited with code 5"}
    assert bench.watch.messages() == [("broken", told)]


def test_signals_from_outside_blame_only_when_they_repeat(bench: Bench) -> None:
    assert [bench.loses(OUTSIDE) for _ in range(MAX_STRIKES)] == [False] * (MAX_STRIKES - 1) + [True]


def test_lack_of_memory_blames_only_when_it_repeats(bench: Bench) -> None:
    """The kernel kills a worker first, whoever took the memory."""
    ending = Ending("was ended by SIGKILL (out of memory)", by_itself=True, out_of_memory=True)
    assert [bench.loses(ending) for _ in range(MAX_STRIKES)] == [False] * (MAX_STRIKES - 1) + [True]


def test_a_successful_load_clears_strikes(bench: Bench) -> None:
    for _ in range(3):
        for _ in range(MAX_STRIKES - 1):
            assert not bench.loses(OUTSIDE)
        bench.loads()


def test_a_worker_that_the_broker_ends_blames_nobody(bench: Bench) -> None:
    assert not any(bench.loses(OUTSIDE, failure="dismissed") for _ in range(2 * MAX_STRIKES))
    assert not bench.loses(ITSELF, failure="dismissed")


def test_a_worker_between_bundles_blames_nobody(bench: Bench) -> None:
    worker = bench.worker()
    bench.watch.started(worker)
    bench.watch.loading(worker, BUNDLE)
    bench.watch.loaded(worker)
    bench.watch.ended(worker, ITSELF)
    worker.end_patience()
    assert not worker.retry_at_once


def test_a_bundle_that_kills_in_every_version_is_barred(bench: Bench) -> None:
    """It may change its own file each time."""
    for number in range(MAX_VERSIONS):
        for _ in range(2):
            bench.loses(ITSELF, BUNDLE._replace(version=str(number)))
        ((_, told),) = bench.watch.messages()
        assert told["version"] == ("" if number == MAX_VERSIONS - 1 else str(number))


def test_a_reload_forgets_and_a_retry_forgets_one(bench: Bench) -> None:
    other = BundleVersion("/b/b.py", "b.py", "1")
    bench.loses(ITSELF)
    bench.loses(ITSELF, other)
    bench.watch.retry(["/b/a.py", "/nowhere"])
    assert [told["path"] for _, told in bench.watch.messages()] == ["/b/b.py"]
    bench.watch.forget()
    assert bench.watch.messages() == []
