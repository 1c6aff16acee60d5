"""`tyk.cache`: what is kept, for how long, and what happens when several callers want the same."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import tyk
from tests.support.broker import wait_until
from tyk import CacheInfo, caching, store
from tyk.caching import MAX_SHARED
from tyk.errors import CacheValueError, HookOptionError, StoreUnavailableError
from tyk.gateway import install
from tyk.gateway.backend import MemoryStorage
from tyk.gateway.commands import Command
from tyk.gateway.testing import FakeGateway, fake_call, fake_gateway

calls: list[Any] = []


@pytest.fixture(autouse=True)
def gateway() -> Iterator[FakeGateway]:
    calls.clear()
    with fake_gateway() as gateway:
        yield gateway


def square(number: int) -> int:
    calls.append(number)
    return number * number


@tyk.cache(ttl=60, shared=True)
def shared_square(number: int) -> Any:
    """Return the square."""
    calls.append(number)
    return number * number


@tyk.cache(ttl=60, shared=True)
async def shared_square_async(number: int) -> int:
    calls.append(number)
    return number * number


@tyk.cache(ttl=60, shared=True)
def same(value: Any, **options: Any) -> Any:
    calls.append(value)
    return value


@tyk.cache(ttl=60, shared=True)
def pair(value: Any) -> Any:
    return value, value


def test_a_result_is_kept_for_its_time(gateway: FakeGateway) -> None:
    cached = tyk.cache(ttl=60)(square)
    assert [cached(2), cached(2), cached(3)] == [4, 4, 9]
    gateway.clock.advance(59.9)
    assert cached(2) == 4
    gateway.clock.advance(0.1)
    assert cached(2) == 4
    assert calls == [2, 3, 2]
    assert cached.cache_info() == CacheInfo(hits=2, misses=3, errors=0, maxsize=1024, currsize=2)


def test_without_options_results_stay(gateway: FakeGateway) -> None:
    cached = tyk.cache(square)
    gateway.clock.advance(1e9)
    assert [cached(2), cached(2)] == [4, 4]
    assert calls == [2]
    assert cached.__wrapped__ is square


def test_the_least_recently_used_result_goes_first() -> None:
    cached = tyk.cache(maxsize=2)(square)
    for number in (1, 2, 1, 3, 1, 2):
        cached(number)
    assert calls == [1, 2, 3, 2]
    assert cached.cache_info().currsize == 2


def test_arguments_of_other_types_are_others() -> None:
    cached = tyk.cache(lambda *values, **named: calls.append((values, named)))
    for value in (1, True, 1.0):
        cached(value)
        cached(named=value)
    cached(a=1, b=2)
    cached(b=2, a=1)
    assert len(calls) == 7
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        cached([])


def test_exceptions_are_not_kept() -> None:
    @tyk.cache
    def fails(number: int) -> int:
        calls.append(number)
        raise ValueError(number)

    for _ in range(2):
        with pytest.raises(ValueError, match="1"):
            fails(1)
    assert calls == [1, 1]


def test_cleared_results_are_forgotten() -> None:
    """Also the result of a call that began before."""

    @tyk.cache
    def clears(number: int) -> int:
        calls.append(number)
        if len(calls) == 1:
            clears.cache_clear()
        return number

    assert [clears(1), clears(1), clears(1)] == [1, 1, 1]
    assert calls == [1, 1]


def test_coroutine_functions_are_cached() -> None:
    @tyk.cache(ttl=60)
    async def cached(number: int) -> int:
        return square(number)

    async def use() -> list[int]:
        return [await cached(2), await cached(2), await cached(3)]

    assert asyncio.run(use()) == [4, 4, 9]
    assert calls == [2, 3]
    assert cached.cache_info()[:2] == (1, 2)


def in_threads(function: Callable[[int], object], count: int = 8) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: outcome(function), range(count)))


def outcome(function: Callable[[int], object]) -> object:
    try:
        return function(2)
    except ValueError as error:
        return error


class Held:
    """A function that returns, or raises, when it is released."""

    def __init__(self, error: Exception | None = None) -> None:
        self.entered = threading.Semaphore(0)
        self.released = threading.Event()
        self._error = error

    def __call__(self, number: int) -> int:
        calls.append(number)
        self.entered.release()
        assert self.released.wait(30)
        if self._error is not None:
            raise self._error
        return number * number


def test_one_of_many_threads_runs_the_function() -> None:
    held = Held()
    cached = tyk.cache(lambda number: held(number))
    with ThreadPoolExecutor(1) as others:
        results = others.submit(in_threads, cached)
        wait_until(lambda: cached.cache_info().misses == 8, lambda: str(cached.cache_info()))
        held.released.set()
        assert results.result() == [4] * 8
    assert calls == [2]


def test_without_single_flight_all_run() -> None:
    held = Held()
    cached = tyk.cache(single_flight=False)(lambda number: held(number))
    with ThreadPoolExecutor(1) as others:
        results = others.submit(in_threads, cached)
        for _ in range(8):
            assert held.entered.acquire(timeout=30)
        held.released.set()
        assert results.result() == [4] * 8


def test_those_who_wait_for_a_failure_run_themselves() -> None:
    held = Held(ValueError("no"))
    cached = tyk.cache(lambda number: held(number))
    with ThreadPoolExecutor(1) as others:
        results = others.submit(in_threads, cached)
        wait_until(lambda: cached.cache_info().misses == 8, lambda: str(cached.cache_info()))
        held.released.set()
        assert [str(result) for result in results.result()] == ["no"] * 8
    assert calls == [2] * 8


def test_waiting_ends_with_the_caller_s_deadline() -> None:
    held = Held()
    cached = tyk.cache(lambda number: held(number) if not calls else -1)
    with ThreadPoolExecutor(1) as others:
        first = others.submit(cached, 2)
        assert held.entered.acquire(timeout=30)
        with fake_call(time_left=0.01):
            assert cached(2) == -1
        held.released.set()
        assert first.result() == 4


def test_a_function_may_call_itself() -> None:
    @tyk.cache
    def fibonacci(number: int) -> int:
        calls.append(number)
        if len(calls) == 1:
            return fibonacci(number)
        return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

    assert fibonacci(20) == 6765


def test_tasks_share_one_run_whoever_is_cancelled() -> None:
    """The first one's cancellation makes the others run; a waiting one's is nothing to anybody."""

    async def use() -> None:
        entered, released = asyncio.Event(), asyncio.Event()

        @tyk.cache
        async def cached(number: int) -> int:
            calls.append(number)
            entered.set()
            await released.wait()
            return number * number

        first, second, third = (asyncio.create_task(cached(2)) for _ in range(3))
        await entered.wait()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        fourth = asyncio.create_task(cached(2))
        released.set()
        assert (await first, await third, await fourth) == (4, 4, 4)
        assert calls == [2]
        released.clear()
        entered.clear()
        fifth, sixth = (asyncio.create_task(cached(3)) for _ in range(2))
        await entered.wait()
        fifth.cancel()
        released.set()
        assert await sixth == 9
        assert calls == [2, 3, 3]

    asyncio.run(use())


def test_a_shared_result_is_kept_in_the_store(gateway: FakeGateway) -> None:
    assert [shared_square(7), shared_square(7)] == [49, 49]
    assert calls == [7]
    gateway.clock.advance(60)
    assert shared_square(7) == 49
    assert calls == [7, 7]
    assert shared_square.cache_info()[2:] == (0, None, None)
    assert shared_square.__doc__ == "Return the square."


def test_a_shared_coroutine_function_is_cached() -> None:
    async def use() -> list[int]:
        return [await shared_square_async(5), await shared_square_async(5)]

    assert asyncio.run(use()) == [25, 25]
    assert calls == [5]


def test_clearing_a_shared_cache_forgets_for_all() -> None:
    shared_square(2)
    shared_square.cache_clear()
    assert store.get("cache:tests.unit.tyk.test_caching.shared_square:epoch") == b"1"
    assert [shared_square(2), shared_square(2)] == [4, 4]
    assert calls == [2, 2]


@pytest.mark.parametrize("value", [None, 1.5, "ü", [1, {"a": None}], {"a": [True]}])
def test_shared_results_come_back_as_they_were(value: Any) -> None:
    assert [same(value), same(value), same(value, a=1), same(value, a=1)] == [value] * 4
    assert calls == [value, value]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: pair(1), r"the result of pair cannot be shared .*: JSON makes \[1, 1\] of \(1, 1\)"),
        (lambda: same({1: 2}), r"JSON makes \{'1': 2\} of \{1: 2\}"),
        (lambda: same("x" * MAX_SHARED), "1048578 bytes of JSON"),
        (lambda: same(1, set=b"bytes"), "bytes is not JSON serializable"),
    ],
)
def test_what_json_cannot_carry_is_refused(use: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        use()


def test_shared_arguments_are_what_json_can_carry() -> None:
    with pytest.raises(CacheValueError, match="the arguments of shared_square cannot be shared"):
        shared_square(1j)  # type: ignore[arg-type]
    assert calls == []


def held_square(number: int) -> int:
    return held(number)


held = Held()


@pytest.fixture
def workers() -> list[Any]:
    """The same shared function, as two workers have it; it waits until `held` is released."""
    global held
    held = Held()
    return [tyk.cache(ttl=60, shared=True)(held_square) for _ in range(2)]


def test_a_worker_waits_for_another_one_s_run(workers: list[Any]) -> None:
    one, other = workers
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(one, 2)
        assert held.entered.acquire(timeout=30)
        second = callers.submit(other, 2)
        wait_until(lambda: other.cache_info().misses == 1, lambda: str(other.cache_info()))
        held.released.set()
        assert (first.result(), second.result()) == (4, 4)
    assert calls == [2]


def test_a_worker_runs_what_another_one_failed_at(workers: list[Any]) -> None:
    held._error = ValueError("no")
    held.released.set()
    for function in workers:
        with pytest.raises(ValueError, match="no"):
            function(2)
    assert calls == [2, 2]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_killed_worker_holds_others_up_for_a_while(monkeypatch: pytest.MonkeyPatch, is_async: bool) -> None:
    """Its claim is still in the store."""
    monkeypatch.setattr(caching, "CLAIM_SECONDS", 0.05)
    monkeypatch.setattr(store, "set_if_absent", lambda *arguments: False)
    result = asyncio.run(shared_square_async(2)) if is_async else shared_square(2)
    assert (result, calls) == (4, [2])


class Down(MemoryStorage):
    """A storage that does not work."""

    def execute(self, command: Command) -> Any:
        raise StoreUnavailableError("it is down")


def test_a_store_that_does_not_work_is_a_miss() -> None:
    install(Down())
    before = shared_square.cache_info()
    assert [shared_square(2), shared_square(2)] == [4, 4]
    assert calls == [2, 2]
    after = shared_square.cache_info()
    assert (after.misses - before.misses, after.errors - before.errors) == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 0}, "ttl is a number of seconds above 0"),
        ({"ttl": "60"}, "ttl is a number of seconds above 0"),
        ({"ttl": float("inf")}, "ttl is a number of seconds above 0"),
        ({"maxsize": 0}, "maxsize is a whole number above 0"),
        ({"maxsize": 1.5}, "maxsize is a whole number above 0"),
        ({"single_flight": 1}, "single_flight is True or False"),
        ({"shared": 1, "ttl": 1}, "shared is True or False"),
        ({"shared": True}, "shared=True needs a ttl"),
        ({"shared": True, "ttl": 1, "maxsize": 5}, "maxsize is for a worker's own cache"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HookOptionError, match=f"@cache: {message}"):
        tyk.cache(**options)


def test_functions_that_cannot_be_cached_are_refused() -> None:
    def yields() -> Iterator[int]:
        yield 1

    with pytest.raises(HookOptionError, match="functions that return their result"):
        tyk.cache(yields)
    with pytest.raises(HookOptionError, match="shared=True is for functions of a module or class"):
        tyk.cache(ttl=1, shared=True)(lambda: 1)
