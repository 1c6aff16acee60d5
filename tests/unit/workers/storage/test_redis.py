"""Which errors are an outage of Redis: those of its connection. Anything else is somebody's fault, and is raised."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import redis.exceptions

from tykpy.redisclient.address import parse_redis_url
from tykpy.redisclient.client import OUTAGES, Client, Connected, _Cluster
from tykpy.workers.storage.redis import RedisStorage

FAULTS = [KeyError("slot"), IndexError("slot"), AttributeError("node"), TypeError("argument"), KeyboardInterrupt()]
SLOTS = {0: ["a node"]}


class Broken:
    """A client of which every command raises an error, and that may have a cluster's slots."""

    def __init__(self, error: BaseException, slots: dict[int, list[str]]) -> None:
        self.error = error
        self.nodes_manager = SimpleNamespace(slots_cache=slots)

    def get(self, name: bytes) -> bytes | None:
        raise self.error

    def set(self, name: bytes, value: bytes, *, px: int | None = None) -> object:
        raise self.error

    def pipeline(self, transaction: bool) -> "Broken":
        return self

    def execute(self) -> object:
        raise self.error

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_fault_is_raised_and_is_no_outage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    storage = RedisStorage(parse_redis_url(f"unix://{tmp_path}/redis.sock"))
    broken = Broken(error, SLOTS)
    storage._connected["redis"] = Connected(cast(Client, broken))
    for _ in range(2):
        with pytest.raises(type(error)):
            storage.fetch("key")
        with pytest.raises(type(error)):
            storage.store("key", b"value", 0)
    assert not caplog.messages
    broken.error = redis.exceptions.ConnectionError("gone")
    assert storage.fetch("key") == b""
    assert "does not answer" in caplog.text
    broken.error = KeyError("slot")
    assert storage.fetch("key") == b"", "it is not asked for a while"
    storage.close()


@pytest.mark.parametrize("error", FAULTS[:3], ids=lambda error: type(error).__name__)
def test_a_cluster_without_slots_is_an_outage(error: Exception) -> None:
    """That is what redis-py 5 raises then."""
    cluster = _Cluster(Broken(error, {}))
    with pytest.raises(OUTAGES, match="no server has any slots"):
        cluster.get(b"key")
    with pytest.raises(OUTAGES, match="no server has any slots"):
        cluster.set(b"key", b"value")
    with pytest.raises(OUTAGES, match="no server has any slots"):
        cluster.pipeline(transaction=False).execute()


@pytest.mark.parametrize("error", FAULTS[:3], ids=lambda error: type(error).__name__)
def test_an_error_of_a_cluster_with_slots_is_no_outage(error: Exception) -> None:
    with pytest.raises(type(error)):
        _Cluster(Broken(error, SLOTS)).get(b"key")
