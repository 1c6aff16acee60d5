"""Redis gone, back, paused, slow, full: calls answer empty in time, the log says so once, and use resumes by itself."""

import logging
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.peers.redis_server import RedisServer, free_port, wait_until
from tyk.errors import StoreUnavailableError
from tyk.gateway.commands import Get, Increment, Set
from tykpy.redisclient.address import parse_redis_url
from tykpy.workers.storage.redis import ANSWER_S, FIRST_BACKOFF_S, SOCKET_S, RedisLimits, RedisStorage

EAGER = RedisLimits(first_backoff_s=0.01, longest_backoff_s=0.05)
"""The real limits of a call, and short back-offs so that recovery is seen soon."""

STUBBORN = RedisLimits(first_backoff_s=3600.0, longest_backoff_s=3600.0)
"""After the first failure Redis is not asked again."""

PATIENT = RedisLimits(answer_s=30.0, socket_s=30.0)
"""Where Redis does answer, on a machine that may be busy."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test alone; not started."""
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@contextmanager
def storage_at(url: str, limits: RedisLimits = EAGER) -> Iterator[RedisStorage]:
    storage = RedisStorage(parse_redis_url(url), limits)
    try:
        yield storage
    finally:
        storage.close()


def assert_recovers(storage: RedisStorage) -> None:
    def works() -> bool:
        storage.store("recovered", b"yes", 60)
        return storage.fetch("recovered") == b"yes"

    wait_until(works, "Redis is used again")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_a_call_is_limited_to_less_than_a_second() -> None:
    assert SOCKET_S < ANSWER_S < 1.0
    assert RedisLimits().answer_s == ANSWER_S
    assert RedisLimits().first_backoff_s == FIRST_BACKOFF_S > 0


def test_commands_of_the_store_raise_while_redis_is_down(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged once; the breaker makes the others fail at once."""
    with storage_at(server.url) as storage:
        for _ in range(5):
            with pytest.raises(StoreUnavailableError, match=f"Redis at {server.url} does not answer"):
                storage.execute(Increment("key", 1))
        assert len(errors(caplog)) == 1
        server.start()
        assert_recovers(storage)
        assert storage.execute(Increment("key", 1)) == 1


def test_a_refused_command_of_the_store_is_no_outage(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.start()
    with storage_at(server.url, PATIENT) as storage, server.client() as client:
        client.lpush("coprocess-data:list", "x")
        for command in (Get(("list",)), Get(("list", "other"))):
            with pytest.raises(StoreUnavailableError, match=r"refused a command: .*WRONGTYPE"):
                storage.execute(command)
        assert len(errors(caplog)) == 1
        assert storage.execute(Set({"key": b"value"})) is None
        assert storage.fetch("key") == b"value"


def test_down_at_start(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with storage_at(server.url) as storage:
        for _ in range(5):
            assert storage.fetch("key") == b""
            storage.store("key", b"value", 60)
        assert len(errors(caplog)) == 1
        assert f"Redis at {server.url} does not answer" in errors(caplog)[0]
        server.start()
        assert_recovers(storage)
    assert f"Redis at {server.url} answers again" in caplog.text


def test_down_at_start_over_tcp(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.port = free_port()
    with storage_at(f"redis://127.0.0.1:{server.port}") as storage:
        assert storage.fetch("key") == b""
        server.start()
        assert_recovers(storage)
    assert len(errors(caplog)) == 1


def test_killed_in_between(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.start()
    with storage_at(server.url) as storage:
        assert_recovers(storage)
        server.stop()
        assert storage.fetch("recovered") == b""
        storage.store("key", b"value", 60)
        assert len(errors(caplog)) == 1
        server.start()
        assert_recovers(storage)


def test_restarted_between_two_calls_costs_nothing(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.start()
    with storage_at(server.url, PATIENT) as storage:
        storage.store("key", b"before", 60)
        server.stop()
        server.start()
        storage.store("key", b"after", 60)
        assert storage.fetch("key") == b"after"
    assert errors(caplog) == []


def test_a_connection_that_is_closed_under_a_call_is_replaced(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        proxy = threading.Thread(target=_drop_the_first_get, args=(listener, server))
        proxy.start()
        with storage_at(f"unix://{path}", PATIENT) as storage:
            storage.store("key", b"value", 60)
            assert storage.fetch("key") == b"value"
        proxy.join()
    assert errors(caplog) == []


def _drop_the_first_get(listener: socket.socket, server: RedisServer) -> None:
    """Pass two connections on, and close the first one where it says GET."""
    for last_word in (b"GET", b"no such word"):
        client, _ = listener.accept()
        with client, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(str(server.socket))
            _pass_on(client, upstream, last_word)


def _pass_on(client: socket.socket, upstream: socket.socket, last_word: bytes) -> None:
    while True:
        for ready in select.select([client, upstream], [], [])[0]:
            data = ready.recv(65536)
            if not data or last_word in data:
                return
            (upstream if ready is client else client).sendall(data)


def test_paused(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.start()
    with storage_at(server.url) as storage:
        storage.store("key", b"value", 60)
        server.pause()
        assert storage.fetch("key") == b""
        storage.store("key", b"lost", 60)
        assert server.is_paused()
        server.resume()
        assert_recovers(storage)
    assert len(errors(caplog)) == 1


def test_paused_before_the_first_connection(server: RedisServer) -> None:
    server.start()
    server.pause()
    with storage_at(server.url) as storage:
        assert storage.fetch("key") == b""
        assert server.is_paused()
        server.resume()
        assert_recovers(storage)


def test_a_redis_that_is_out_is_not_asked_at_every_call(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage_at(server.url, STUBBORN) as storage:
        asked: list[float] = []
        call = storage._calls.call

        def counted(function: object, limit_s: float) -> object:
            asked.append(limit_s)
            return call(function, limit_s)  # type: ignore[arg-type]

        monkeypatch.setattr(storage._calls, "call", counted)
        for _ in range(100):
            assert storage.fetch("key") == b""
    assert asked == [ANSWER_S]


def test_threads_are_all_answered_while_redis_is_paused(server: RedisServer) -> None:
    server.start()
    with storage_at(server.url) as storage:
        server.pause()
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: answers.append(storage.fetch("key")), name=f"hook-{index}")
            for index in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.is_paused()
        assert answers == [b""] * 8
        server.resume()


def test_full(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.start()
    with storage_at(server.url, PATIENT) as storage, server.client() as client:
        storage.store("old", b"value", 60)
        client.config_set("maxmemory", 1)
        for _ in range(3):
            storage.store("new", b"value", 60)
        assert storage.fetch("old") == b"value"
        assert storage.fetch("new") == b""
        assert len(errors(caplog)) == 1
        assert "refused a command: OutOfMemoryError" in errors(caplog)[0]
        client.config_set("maxmemory", 0)
        storage.store("new", b"value", 60)
        assert storage.fetch("new") == b"value"


def test_a_wrong_password_is_reported_but_not_shown(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.start()
    with server.client() as client:
        client.config_set("requirepass", "right-secret")
    url = server.url.replace("unix://", "unix://:wrong-secret@")
    with storage_at(url) as storage:
        assert storage.fetch("key") == b""
    assert len(errors(caplog)) == 1
    assert "unix://***@/" in errors(caplog)[0]
    assert "secret" not in caplog.text
    with storage_at(url.replace("wrong-secret", "right-secret")) as storage:
        assert_recovers(storage)


def test_a_trickle_of_bytes_does_not_hold_a_call(tmp_path: Path) -> None:
    enough = threading.Event()
    path = tmp_path / "slow.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        peer = threading.Thread(target=_trickle, args=(listener, enough))
        peer.start()
        with storage_at(f"unix://{path}") as storage:
            assert storage.fetch("key") == b""
            assert not enough.is_set()
            enough.set()
        peer.join()


def _trickle(listener: socket.socket, enough: threading.Event) -> None:
    """Send one byte now and then: no time-out of a socket ever comes, nor a whole answer."""
    connection, _ = listener.accept()
    with connection:
        try:
            while not enough.wait(0.02):
                connection.send(b"+")
        except OSError:
            enough.wait()


def test_a_name_lookup_that_hangs_does_not_hold_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        answered.wait()
        raise socket.gaierror("at last")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with storage_at("redis://redis.example:6379") as storage:
        assert storage.fetch("key") == b""
        assert not answered.is_set()
        answered.set()
