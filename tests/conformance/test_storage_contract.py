"""One contract for all storages: a real Redis, the SQLite file, and the memory of tests."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.peers.redis_server import RedisServer, running_redis, wait_until
from tyk import store
from tyk.errors import StoreValueError
from tyk.gateway import Storage, TykGateway, install, restore
from tyk.gateway.backend import MemoryStorage
from tyk.storage import MAX_BATCH
from tykpy.redisclient.address import parse_redis_url
from tykpy.workers.storage.redis import RedisLimits, RedisStorage
from tykpy.workers.storage.sqlite import SQLiteStorage

PATIENT = RedisLimits(answer_s=30.0, socket_s=30.0)
"""Generous, since these tests check answers on a machine that may be busy; test_redis_outages.py tests the limits."""

SHORT_TTL_S = 0.05

Opener = Callable[[], Storage]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis", "memory"])
def opener(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same storage, empty at first, each time it is called."""
    opened: list[SQLiteStorage | RedisStorage] = []
    in_memory = MemoryStorage()

    def open_one() -> Storage:
        if request.param == "memory":
            return in_memory
        storage = SQLiteStorage(tmp_path) if request.param == "sqlite" else _open_redis(redis_server)
        opened.append(storage)
        return storage

    with redis_server.client() as client:
        client.flushall()
    yield open_one
    for storage in opened:
        storage.close()


def _open_redis(server: RedisServer) -> RedisStorage:
    return RedisStorage(parse_redis_url(server.url), PATIENT)


@pytest.fixture
def storage(opener: Opener) -> Iterator[Storage]:
    """The storage that `TykGateway` uses in this test."""
    storage = opener()
    previous = install(storage)
    yield storage
    restore(previous)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("text", b"text"),
        ("täxt", "täxt".encode()),
        ("", b""),
        (b"bytes", b"bytes"),
        (b"\x00\xff\x00", b"\x00\xff\x00"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        (42, b"42"),
        (-(2**70), str(-(2**70)).encode()),
        (0.1, b"0.1"),
        (b"x" * 2**20, b"x" * 2**20),
    ],
)
def test_a_value_comes_back_as_bytes(
    storage: Storage, value: str | bytes | bytearray | memoryview | int | float, stored: bytes
) -> None:
    TykGateway.store_data("key", value, 60)
    answer = TykGateway.get_data("key")
    assert answer == stored
    assert type(answer) is bytes


@pytest.mark.parametrize("key", ["key", "", "clé", "with space\nand \x00", "k" * 10_000, "%d'\"\\"])
def test_any_string_is_a_key(storage: Storage, key: str) -> None:
    TykGateway.store_data(key, "value", 60)
    assert TykGateway.get_data(key) == b"value"
    assert TykGateway.get_data(key + "x") == b""


def test_a_missing_key_is_empty(storage: Storage) -> None:
    assert TykGateway.get_data("never stored") == b""


def test_the_last_value_counts(storage: Storage) -> None:
    TykGateway.store_data("key", "first", 60)
    TykGateway.store_data("key", "second", 60)
    assert TykGateway.get_data("key") == b"second"


@pytest.mark.parametrize("ttl", [SHORT_TTL_S, 0.0001])
def test_a_value_is_gone_after_its_time(storage: Storage, ttl: float) -> None:
    TykGateway.store_data("key", "value", ttl)
    wait_until(lambda: TykGateway.get_data("key") == b"", "the value expires")


@pytest.mark.parametrize("ttl", [0, -1, 60, 1e12])
def test_a_value_stays_until_its_time(storage: Storage, ttl: float) -> None:
    TykGateway.store_data("stays", "value", ttl)
    TykGateway.store_data("goes", "value", SHORT_TTL_S)
    wait_until(lambda: TykGateway.get_data("goes") == b"", "the other value expires")
    assert TykGateway.get_data("stays") == b"value"


def test_storing_again_without_ttl_takes_the_expiry_away(storage: Storage) -> None:
    TykGateway.store_data("key", "old", SHORT_TTL_S)
    TykGateway.store_data("key", "new", 0)
    TykGateway.store_data("goes", "value", SHORT_TTL_S)
    wait_until(lambda: TykGateway.get_data("goes") == b"", "a later value expires")
    assert TykGateway.get_data("key") == b"new"


def test_what_one_worker_stores_another_one_gets(opener: Opener, storage: Storage) -> None:
    TykGateway.store_data("shared", "value", 60)
    other = opener()
    assert other.fetch("shared") == b"value"
    other.store("shared", b"changed", 60)
    assert TykGateway.get_data("shared") == b"changed"


def test_threads_do_not_mix_their_values(storage: Storage) -> None:
    wrong: list[str] = []

    def store_and_get(name: str) -> None:
        for number in range(25):
            TykGateway.store_data(name, f"{name}-{number}", 60)
            if TykGateway.get_data(name) != f"{name}-{number}".encode():
                wrong.append(f"{name}-{number}")

    threads = [threading.Thread(target=store_and_get, args=(f"thread-{index}",)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_gateway_finds_the_value_in_redis(redis_server: RedisServer) -> None:
    storage = _open_redis(redis_server)
    storage.store("for-the-gateway", b"value", 100)
    storage.store("for-ever", b"value", 0)
    with redis_server.client() as client:
        assert client.get("coprocess-data:for-the-gateway") == b"value"
        assert 0 < int(client.ttl("coprocess-data:for-the-gateway")) <= 100
        assert client.ttl("coprocess-data:for-ever") == -1
        client.set("coprocess-data:from-the-gateway", "other")
    assert storage.fetch("from-the-gateway") == b"other"
    storage.close()


@pytest.mark.parametrize("value", [1, -7, 1.5, 1e300, 10**30, "é", b"\xff"])
def test_values_are_encoded_as_redis_py_encodes_them(
    redis_server: RedisServer, value: str | bytes | int | float
) -> None:
    storage = _open_redis(redis_server)
    previous = install(storage)
    TykGateway.store_data("ours", value, 60)
    restore(previous)
    with redis_server.client() as client:
        client.set("theirs", value)
        assert client.get("coprocess-data:ours") == client.get("theirs")
    storage.close()


def test_get_tells_nothing_from_empty(storage: Storage) -> None:
    store.set("empty", "")
    assert (store.get("empty"), store.get("missing"), store.get("missing", 7)) == (b"", None, 7)
    TykGateway.store_data("old", "value", 0)
    assert store.get("old") == b"value"
    store.set("new", 1.5, 60)
    assert TykGateway.get_data("new") == b"1.5"


def test_delete_tells_whether_there_was_a_value(storage: Storage) -> None:
    store.set("key", b"\x00")
    assert (store.delete("key"), store.delete("key"), store.get("key")) == (True, False, None)


def test_a_counter_counts(storage: Storage) -> None:
    assert [store.incr("n"), store.incr("n", 41), store.incr("n", -50)] == [1, 42, -8]
    assert store.get("n") == b"-8"
    store.set("n", "007")
    with pytest.raises(StoreValueError, match="no integer of 64 bits"):
        store.incr("n")
    store.set("n", 2**63 - 1)
    assert store.incr("n", 0) == 2**63 - 1
    for amount in (1, 2**63 - 1):
        with pytest.raises(StoreValueError):
            store.incr("n", amount)
    with pytest.raises(StoreValueError):
        store.incr("n", ttl=60)
    assert store.get("n") == b"9223372036854775807"


def test_a_new_counter_has_a_time_to_live(storage: Storage) -> None:
    """It counts from the first increment, and an expired counter begins anew."""
    assert store.incr("goes", 5, ttl=SHORT_TTL_S) == 5
    assert store.incr("stays", 5) == 5
    assert store.incr("stays", 1, ttl=SHORT_TTL_S) == 6
    wait_until(lambda: store.get("goes") is None, "the counter expires")
    assert (store.incr("goes", 2, ttl=60), store.incr("goes", 1), store.get("stays")) == (2, 3, b"6")


def test_only_the_first_of_many_keeps_its_value(storage: Storage) -> None:
    assert store.set_if_absent("lock", "a", SHORT_TTL_S)
    wait_until(lambda: store.get("lock") is None, "the value expires")
    with ThreadPoolExecutor(8) as callers:
        kept = list(callers.map(lambda number: store.set_if_absent("lock", str(number), 60), range(40)))
    assert kept.count(True) == 1
    assert store.get("lock") == str(kept.index(True)).encode()


def test_concurrent_increments_all_count(opener: Opener, storage: Storage) -> None:
    with ThreadPoolExecutor(8) as callers:
        sums = list(callers.map(lambda _: store.incr("n", 1, 60), range(200)))
    assert sorted(sums) == list(range(1, 201))


def test_expire_gives_a_value_a_time_to_live(storage: Storage) -> None:
    store.set_many({"a": 1, "b": 1})
    assert (store.expire("a", SHORT_TTL_S), store.expire("b", 60), store.expire("c", 60)) == (True, True, False)
    wait_until(lambda: store.get("a") is None, "the value expires")
    assert (store.expire("a", 60), store.get("b")) == (False, b"1")


def test_batches(storage: Storage) -> None:
    many = {f"key {number}": str(number) for number in range(MAX_BATCH)}
    store.set_many(many, 60)
    assert store.get_many(["key 7", "missing", "key 9", "key 7"]) == {"key 7": b"7", "key 9": b"9"}
    assert len(store.get_many(many)) == MAX_BATCH
    assert store.delete_many(["key 7", "missing", "key 9"]) == 2
    assert store.delete_many(many) == MAX_BATCH - 2
    store.set_many({})
    assert (store.get_many([]), store.delete_many([])) == ({}, 0)


def test_json_comes_back(storage: Storage) -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    store.set_json("json", value, 60)
    assert store.get_json("json") == value
    assert (store.get_json("missing"), store.get_json("missing", 7)) == (None, 7)
    store.set("json", "{")
    with pytest.raises(StoreValueError, match="is no JSON"):
        store.get_json("json")


def test_everything_can_be_awaited(storage: Storage) -> None:
    async def use() -> list[object]:
        await store.aset("a", "1")
        await store.aset_many({"b": 2, "c": 3}, 60)
        await store.aset_json("j", [1], 60)
        return [
            await store.aget("a"),
            await store.aget("missing", 7),
            await store.aincr("a", 2),
            await store.aset_if_absent("a", "x"),
            await store.aexpire("a", 60),
            await store.aget_many(["b", "c"]),
            await store.adelete("b"),
            await store.adelete_many(["b", "c"]),
            await store.aget_json("j"),
        ]

    assert asyncio.run(use()) == [b"1", 7, 3, False, True, {"b": b"2", "c": b"3"}, True, 1, [1]]
