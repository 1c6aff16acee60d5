"""`tyk.store` and `tyk.cache` in the workers of a real broker, which share them."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until

SOURCE = """
import asyncio
import os
from tyk import cache, store
from tyk.decorators import Pre
from tyk.errors import StoreUnavailableError
from gateway import TykGateway

@Pre
def counts(request, session, spec):
    request.add_header("Count", str(store.incr("count", ttl=3600)))
    request.add_header("Worker", str(os.getpid()))
    return request, session

@Pre
async def counts_async(request, session, spec):
    request.add_header("Count", str(await store.aincr("count", ttl=3600)))
    request.add_header("Worker", str(os.getpid()))
    return request, session

@Pre
def writes(request, session, spec):
    store.set_many({"a": "1", "b": "2"}, 3600)
    request.add_header("Old", TykGateway.get_data("a").decode())
    return request, session

@cache(ttl=3600, shared=True)
async def shared(name):
    return {"made by": os.getpid(), "for": name}

@cache(ttl=3600)
def own(name):
    return os.getpid()

@Pre
async def uses_caches(request, session, spec):
    name = request.get_header("Name")
    request.add_header("Shared", str((await shared(name))["made by"]))
    request.add_header("Own", str(own(name)))
    request.add_header("Worker", str(os.getpid()))
    return request, session

@cache(ttl=3600, shared=True)
async def flight():
    while await store.aincr("entering", 0) < 2:
        await asyncio.sleep(0.001)
    return await store.aincr("flights", ttl=3600)

@Pre
async def enters(request, session, spec):
    await store.aset(f"there-{os.getpid()}", "", 3600)
    workers = request.get_header("Workers").split()
    while len(await store.aget_many([f"there-{pid}" for pid in workers])) < 2:
        await asyncio.sleep(0.001)
    await store.aincr("entering", ttl=3600)
    request.add_header("Flight", str(await flight()))
    return request, session
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_broker(tmp_path_factory.mktemp("store"), workers=2, files={"mine.py": SOURCE}) as broker:
        yield broker


def test_workers_count_together(broker: RunningBroker) -> None:
    """`def` and `async def` hooks, and a worker that takes the place of a killed one."""

    def count(number: int) -> tuple[int, str]:
        told = broker.call("counts_async" if number % 2 else "counts", bundle="mine").request.set_headers
        return int(told["Count"]), told["Worker"]

    first = {worker["pid"] for worker in broker.status()["workers"]}
    with ThreadPoolExecutor(8) as callers:
        counted = list(callers.map(count, range(40)))
    assert sorted(number for number, _ in counted) == list(range(1, 41))
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: first.isdisjoint(one["pid"] for one in broker.status()["workers"] if one["state"] == "ready"),
        lambda: str(broker.status()),
    )
    assert count(0)[0] == 41


def test_the_old_functions_see_the_same_values(broker: RunningBroker) -> None:
    assert broker.call("writes", bundle="mine").request.set_headers["Old"] == "1"
    assert broker.status()["storage"]["state"] == "works"


def test_caches_are_a_worker_s_own_or_shared(broker: RunningBroker) -> None:
    """Call until both workers have answered: one of them made the shared result, each its own."""

    def call() -> tuple[str, str, str]:
        told = broker.call("uses_caches", bundle="mine", headers=[("Name", "a")]).request.set_headers
        return told["Worker"], told["Own"], told["Shared"]

    told = {call()}

    def both_answered() -> bool:
        with ThreadPoolExecutor(8) as callers:
            told.update(callers.map(lambda _: call(), range(16)))
        return len({worker for worker, _, _ in told}) == 2

    wait_until(both_answered, lambda: str(told))
    assert all(own == worker for worker, own, _ in told)
    assert len({shared for _, _, shared in told}) == 1


def test_one_worker_runs_what_all_want(broker: RunningBroker) -> None:
    """Calls in both workers ask for the same at the same time."""
    workers = " ".join(str(worker["pid"]) for worker in broker.status()["workers"])

    def call(_number: int) -> str:
        return broker.call("enters", bundle="mine", headers=[("Workers", workers)]).request.set_headers["Flight"]

    with ThreadPoolExecutor(8) as callers:
        assert list(callers.map(call, range(8))) == ["1"] * 8
