"""Redis behind Sentinels and as a Cluster, with real servers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.redis_server import (
    RedisServer,
    SentinelServer,
    free_port,
    running,
    running_redis,
    wait_until,
)
from workers.storage.redis import RedisLimits, RedisStorage
from workers.storage.redis_address import parse_redis_url

EAGER = RedisLimits(answer_s=10.0, socket_s=8.0, first_backoff_s=0.01, longest_backoff_s=0.05)
CLUSTER_SLOTS = 16_384


@contextmanager
def storage_at(url: str) -> Iterator[RedisStorage]:
    storage = RedisStorage(parse_redis_url(url), EAGER)
    try:
        yield storage
    finally:
        storage.close()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "master"
    folder.mkdir()
    with running_redis(folder, port=free_port()) as server:
        yield server


@pytest.fixture
def sentinel(tmp_path: Path, master: RedisServer) -> Iterator[SentinelServer]:
    """Watches the master; not started."""
    folder = tmp_path / "sentinel"
    folder.mkdir()
    server = SentinelServer(folder, free_port(), "mymaster", master.port)
    yield server
    server.stop()


def test_the_sentinel_that_answers_names_the_master(master: RedisServer, sentinel: SentinelServer) -> None:
    sentinel.start()
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
    with storage_at(f"redis+sentinel://{hosts}/mymaster/2") as storage, master.client() as client:
        storage.store("key", b"value", 60)
        assert storage.fetch("key") == b"value"
        client.select(2)
        assert client.get("coprocess-data:key") == b"value"


def test_sentinels_that_are_down_at_start(sentinel: SentinelServer) -> None:
    with storage_at(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster") as storage:
        assert storage.fetch("key") == b""
        sentinel.start()
        _assert_recovers(storage)


def test_a_cluster(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--cluster-enabled", "yes", port=free_port()) as server:
        url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{server.port}"
        with storage_at(url) as storage:
            assert storage.fetch("key") == b""
            _take_all_slots(server)
            _assert_recovers(storage)
            storage.store("key", b"value", 60)
            assert storage.fetch("key") == b"value"


def test_a_cluster_that_restarts(tmp_path: Path) -> None:
    with ExitStack() as servers:
        server = RedisServer(tmp_path, "--cluster-enabled", "yes", port=free_port())
        servers.enter_context(running(server))
        _take_all_slots(server)
        storage = servers.enter_context(storage_at(f"redis+cluster://127.0.0.1:{server.port}"))
        _assert_recovers(storage)
        server.stop()
        assert storage.fetch("recovered") == b""
        server.start()
        _assert_recovers(storage)


def _take_all_slots(server: RedisServer) -> None:
    with server.client() as client:
        client.cluster("ADDSLOTS", *range(CLUSTER_SLOTS))
        wait_until(lambda: _cluster_state(client) == "ok", "the cluster is formed")


def _cluster_state(client: redis.Redis) -> str:
    return str(client.cluster("INFO")["cluster_state"])


def _assert_recovers(storage: RedisStorage) -> None:
    def works() -> bool:
        storage.store("recovered", b"yes", 60)
        return storage.fetch("recovered") == b"yes"

    wait_until(works, "Redis is used again")
