"""Redis behind Sentinels and as a Cluster, with real servers: the storage, and the stream of events."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.peers.redis_server import (
    RedisServer,
    SentinelServer,
    free_port,
    running,
    running_redis,
    take_all_slots,
    wait_until,
)
from tyk.errors import StoreValueError
from tyk.gateway.commands import Delete, Expire, Get, Increment, Set, SetIfAbsent
from tykpy.broker.events.delivery import DeliveryError, DeliveryVerdict
from tykpy.broker.events.event import ReceivedEvent
from tykpy.broker.events.stream import RedisStream
from tykpy.redisclient.address import parse_redis_url
from tykpy.workers.storage.redis import RedisLimits, RedisStorage

EAGER = RedisLimits(answer_s=10.0, socket_s=8.0, first_backoff_s=0.01, longest_backoff_s=0.05)
EVENT = ReceivedEvent("QuotaLow", "id-1", 0, '{"message": {"Type": "QuotaLow"}}')


@contextmanager
def storage_at(url: str) -> Iterator[RedisStorage]:
    storage = RedisStorage(parse_redis_url(url), EAGER)
    try:
        yield storage
    finally:
        storage.close()


@contextmanager
def stream_at(url: str) -> Iterator[RedisStream]:
    stream = RedisStream(parse_redis_url(url), "events", 100)
    try:
        yield stream
    finally:
        stream.close()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "master"
    folder.mkdir()
    with running_redis(folder, port=free_port()) as server:
        yield server


@pytest.fixture
def sentinel(tmp_path: Path, master: RedisServer) -> Iterator[SentinelServer]:
    """A Sentinel for the master, not started yet."""
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
            take_all_slots(server)
            _assert_recovers(storage)
            storage.store("key", b"value", 60)
            assert storage.fetch("key") == b"value"
            _assert_executes_all(storage)


def _assert_executes_all(storage: RedisStorage) -> None:
    """The keys of a batch are in several slots."""
    many = {str(number): b"%d" % number for number in range(50)}
    storage.execute(Set(many, 60))
    assert storage.execute(Get((*many, "missing"))) == [*many.values(), None]
    assert storage.execute(Increment("7", 1)) == 8
    assert storage.execute(Increment("n", 5, 60)) == 5
    with pytest.raises(StoreValueError):
        storage.execute(Increment("key", 1, 60))
    assert storage.execute(SetIfAbsent("7", b"", 60)) is False
    assert storage.execute(Expire("7", 60)) is True
    assert storage.execute(Delete((*many, "missing"))) == 50


def test_a_cluster_that_restarts(tmp_path: Path) -> None:
    with ExitStack() as servers:
        server = RedisServer(tmp_path, "--cluster-enabled", "yes", port=free_port())
        servers.enter_context(running(server))
        take_all_slots(server)
        storage = servers.enter_context(storage_at(f"redis+cluster://127.0.0.1:{server.port}"))
        _assert_recovers(storage)
        server.stop()
        assert storage.fetch("recovered") == b""
        server.start()
        _assert_recovers(storage)


def _assert_recovers(storage: RedisStorage) -> None:
    def works() -> bool:
        storage.store("recovered", b"yes", 60)
        return storage.fetch("recovered") == b"yes"

    wait_until(works, "Redis is used again")


def test_a_stream_behind_sentinels_follows_the_master(
    tmp_path: Path, master: RedisServer, sentinel: SentinelServer
) -> None:
    folder = tmp_path / "replica"
    folder.mkdir()
    with running_redis(folder, "--replicaof", "127.0.0.1", str(master.port), port=free_port()) as replica:
        wait_until(lambda: _replicates(replica), "the replica has a copy of the master")
        with stream_at(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster") as stream:
            _assert_is_away(stream)
            sentinel.start()
            _deliver(stream)
            assert _names_at(master) == [b"QuotaLow"]
            _fail_over(sentinel, master, replica)
            _deliver(stream)
            assert _names_at(replica) == [b"QuotaLow", b"QuotaLow"]


def test_a_stream_in_a_cluster(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--cluster-enabled", "yes", port=free_port())
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{server.port}"
    with running(server), stream_at(url) as stream:
        _assert_is_away(stream)
        take_all_slots(server)
        _deliver(stream)
        assert _names_at(server) == [b"QuotaLow"]
        server.stop()
        _assert_is_away(stream)
        server.start()
        _deliver(stream)


def test_a_refusal_by_a_cluster_is_no_outage(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--cluster-enabled", "yes", port=free_port()) as server:
        take_all_slots(server)
        with server.client() as client:
            client.set("events", "no stream")
        with stream_at(f"redis+cluster://127.0.0.1:{server.port}") as stream:
            with pytest.raises(DeliveryError, match="WRONGTYPE") as caught:
                stream.deliver([EVENT])
    assert caught.value.verdict is DeliveryVerdict.FAILED


def _assert_is_away(stream: RedisStream) -> None:
    with pytest.raises(DeliveryError) as caught:
        stream.deliver([EVENT])
    assert caught.value.verdict is DeliveryVerdict.AWAY, caught.value


def _deliver(stream: RedisStream) -> None:
    """Retry as the delivery's thread does; every failure must be an outage."""

    def delivered() -> bool:
        try:
            stream.deliver([EVENT])
        except DeliveryError as error:
            if error.verdict is not DeliveryVerdict.AWAY:
                raise
            return False
        return True

    wait_until(delivered, "the stream takes the event")


def _names_at(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        entries: Any = client.xrange("events")
    return [fields[b"name"] for _, fields in entries]


def _replicates(replica: RedisServer) -> bool:
    with replica.client() as client:
        return bool(client.info("replication")["master_link_status"] == "up")


def _role(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])


def _fail_over(sentinel: SentinelServer, master: RedisServer, replica: RedisServer) -> None:
    """Make the Sentinel swap master and replica once it knows the replica; until then both accept entries."""

    def ordered() -> bool:
        with sentinel.client() as client, suppress(redis.ResponseError):
            return bool(client.sentinel_failover("mymaster"))
        return False

    wait_until(ordered, "the sentinel knows the replica")
    wait_until(lambda: (_role(replica), _role(master)) == ("master", "slave"), "master and replica are exchanged")
