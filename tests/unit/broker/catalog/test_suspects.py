"""Which bundles the next workers load first, after one that any of several bundles may have ended."""

import asyncio
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tykpy.broker.catalog.loading import BundleLoads
from tykpy.broker.catalog.suspects import MAX_LEFT, MAX_TRIALS, MAX_TRIED, MOST_WAITING
from tykpy.broker.config import BrokerConfig
from tykpy.broker.pool.process import Ending
from tykpy.broker.pool.worker import BundleVersion, Worker

ITSELF = Ending("exited with code 5", by_itself=True)


def source(name: str) -> BundleVersion:
    return BundleVersion(f"/b/{name}", name, "1")


class Bench:
    """A BundleLoads, and workers for it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loads = BundleLoads(self.loop, BrokerConfig(ready_timeout=60, load_timeout=60))

    def start(self, loaded: Iterable[str] = (), leaves: Iterable[str] = ()) -> Worker:
        """Start a worker that has loaded these bundles, of which some leave a thread running."""
        worker = Worker(0, 1, cast(Any, None), cast(Any, SimpleNamespace(pid=0)), cast(Any, None))
        self.loads.spawned(worker)
        for name in loaded:
            self.loads.loading(worker, source(name))
            if name in leaves:
                self.loads.left_behind(worker, {**source(name)._asdict(), "kinds": ["threads"]})
            self.loads.loaded(worker)
        return worker

    def end(self, worker: Worker, loading: str | None = None, ending: Ending = ITSELF) -> bool:
        """End the worker; return whether the next one is of use at once."""
        if loading is not None:
            self.loads.loading(worker, source(loading))
        self.loads.ended(worker, ending)
        worker.end_patience()
        return worker.retry_at_once

    def told(self, name: str) -> list[str]:
        """Return the bundles in messages of this name to the next worker."""
        return [body["path"].removeprefix("/b/") for told, body in self.loads.messages() if told == name]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.close()


def test_the_loading_bundle_is_suspected_first(bench: Bench) -> None:
    assert bench.end(bench.start(["a", "b", "c"], leaves=["a", "b"]), loading="d")
    assert bench.told("watch") == ["d", "b", "a"]
    assert bench.told("broken") == []


def test_a_bundle_is_blamed_if_others_left_nothing(bench: Bench) -> None:
    assert bench.end(bench.start(["a"]), loading="b")
    assert (bench.told("watch"), bench.told("broken")) == ([], ["b"])


def test_suspects_that_survive_are_suspects_no_more(bench: Bench) -> None:
    bench.end(bench.start(["a"], leaves=["a"]), loading="b")
    second = bench.start(["b"])
    assert bench.told("watch") == ["a"]
    assert bench.end(second, loading="a")
    assert (bench.told("watch"), bench.told("broken")) == ([], ["a"])


def test_a_worker_that_watches_nobody_clears_nobody(bench: Bench) -> None:
    """It was started before there were suspects."""
    early = bench.start()
    bench.end(bench.start(["a"], leaves=["a"]), loading="b")
    bench.loads.loading(early, source("a"))
    bench.loads.loaded(early)
    early.end_patience()
    assert bench.told("watch") == ["b", "a"]


def test_workers_are_not_started_at_once_for_ever(bench: Bench) -> None:
    for _ in range(MAX_TRIALS):
        assert bench.end(bench.start(["a"], leaves=["a"]), loading="b")
        bench.start(["b", "a"], leaves=["a"]).end_patience()
    assert not bench.end(bench.start(["a"], leaves=["a"]), loading="b")


def test_a_new_suspect_is_tried_at_once(bench: Bench) -> None:
    """Also if all others have been tried in vain; a bound holds for all together."""
    worth = []
    for number in range(2 * MAX_TRIED):
        loading = str(number)
        worth.append(bench.end(bench.start(["a"], leaves=["a"]), loading=loading))
        assert bench.told("watch")[0] == loading
        bench.start([loading, "a"], leaves=["a"]).end_patience()
    assert all(worth[: MAX_TRIED // 2])
    assert not any(worth[MAX_TRIED:])


def test_nobody_is_watched_once_it_is_explained(bench: Bench) -> None:
    bench.end(bench.start(["a"], leaves=["a"]), loading="b")
    bench.end(bench.start(), loading="b")
    assert (bench.told("watch"), bench.told("broken")) == ([], ["b"])


def test_thousands_of_suspects_are_watched_in_turns(bench: Bench) -> None:
    names = [str(number) for number in range(2 * MAX_LEFT)]
    bench.end(bench.start(names, leaves=names), loading="x")
    first = bench.told("watch")
    assert sum(bench.loads.suspects.waits.values()) <= MOST_WAITING + 1
    bench.start(first, leaves=first).end_patience()
    bench.end(bench.start(names, leaves=names), loading="x")
    assert set(first) & set(bench.told("watch")) == {"x"}


def test_an_idle_worker_that_ends_early_has_suspects(bench: Bench) -> None:
    bench.end(bench.start(["a", "b"], leaves=["a"]))
    assert bench.told("watch") == ["a"]


def test_a_found_bundle_is_watched_when_tried_again(bench: Bench) -> None:
    """It may end its worker only after that was let in."""
    bench.end(bench.start(["a"], leaves=["a"]))
    worker = bench.start()
    bench.loads.loading(worker, source("a"))
    bench.loads.left_behind(worker, {**source("a")._asdict(), "kinds": ["threads"]})
    assert bench.end(worker)
    assert (bench.told("watch"), bench.told("broken")) == ([], ["a"])
    bench.loads.retry(["/b/a"])
    assert (bench.told("watch"), bench.told("broken")) == (["a"], [])


def test_a_bundle_that_hangs_is_blamed_if_alone(bench: Bench) -> None:
    worker = bench.start(["a"], leaves=["a"])
    worker.process = cast(Any, SimpleNamespace(pid=0, dump=lambda: None, kill=lambda: None))
    bench.loads.loading(worker, source("b"))
    bench.loads._not_loaded(worker, source("b"))
    worker.end_patience()
    assert (bench.told("watch"), bench.told("broken"), worker.retry_at_once) == (["b", "a"], [], True)


def test_a_reload_forgets_suspects(bench: Bench) -> None:
    bench.end(bench.start(["a"], leaves=["a"]), loading="b")
    bench.loads.forget()
    assert bench.told("watch") == []
