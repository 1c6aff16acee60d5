"""A broker with the bundles and the storage of a real installation: ZIPs, a gateway's folder, Redis."""

import hashlib
import json
import os
import re
import signal
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import PATIENCE, RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE
from tests.support.peers.redis_server import RedisServer, running, running_redis
from tykpy.client.grpc import GrpcCallError

MANIFEST = json.dumps({
    "file_list": ["middleware.py"],
    "custom_middleware": {"driver": "grpc", "pre": [{"name": "add_header"}]},
})  # fmt: skip


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_a_zip_is_found_by_the_hash_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    with zipfile.ZipFile(tmp_path / "bundles" / "mine.zip", "w") as archive:
        archive.writestr("manifest.json", MANIFEST)
        archive.writestr("middleware.py", SOURCE)
    with running_broker(tmp_path, workers=2, files={}) as broker:
        for _ in range(4):
            assert "X-Worker" in broker.call("add_header", bundle="mine.zip").request.set_headers


def write_zip(broker: RunningBroker, version: int) -> None:
    """Put a bundle in place atomically, as a deployment should."""
    with zipfile.ZipFile(broker.folder / "new.zip", "w") as archive:
        archive.writestr("manifest.json", MANIFEST)
        archive.writestr("middleware.py", f"{SOURCE}\nVERSION = {version}\n")
    (broker.folder / "new.zip").rename(broker.bundles / "mine.zip")


def test_unpacked_versions_are_removed_when_no_worker_uses_them(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path, workers=2)
    write_zip(broker, 0)
    unpacked = broker.runtime / "unpacked"
    leftover = unpacked / ".unpack-of-a-dead-worker"
    leftover.mkdir(parents=True)

    def folders() -> list[str]:
        return [path.name for path in unpacked.iterdir()]

    with broker:
        assert not leftover.exists()
        seen = set()
        for version in range(1, 4):
            write_zip(broker, version)
            with broker.admin() as client:
                client.call("reload", timeout=PATIENCE)
            wait_until(lambda: len(folders()) == 1, lambda: str(folders()))
            seen.update(folders())
        assert len(seen) == 3
        # A copy that is damaged while in use, and a worker that cannot release its copy.
        (unpacked / folders()[0] / "middleware.py").write_text("damaged")
        with broker.admin() as client:
            client.call("reload", timeout=PATIENCE)
        os.kill(next(row["pid"] for row in broker.status()["workers"] if row["state"] == "ready"), signal.SIGKILL)
        broker.wait_for_status(lambda text: "2 of 2 workers ready" in text)
        for _ in range(4):
            assert "X-Worker" in broker.call("add_header", bundle="mine.zip").request.set_headers
        assert len(folders()) == 1
        broker.stop()
        assert folders() == []


def test_a_gateways_own_folder_is_shared(tmp_path: Path) -> None:
    """The gateway unpacks a bundle into a folder named by the MD5 of the bundle's name."""
    folder = md5("mine.zip")
    files = {f"{folder}/manifest.json": MANIFEST, f"{folder}/middleware.py": SOURCE}
    with running_broker(tmp_path, files=files) as broker:
        assert "X-Worker" in broker.call("add_header", bundle="mine.zip").request.set_headers


def test_a_hook_name_in_two_bundles_needs_a_bundle(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"one.py": SOURCE, "two.py": SOURCE}) as broker:
        with pytest.raises(GrpcCallError, match=r"one.*two") as caught:
            broker.call("add_header")
        assert caught.value.code.name == "NOT_FOUND"
        assert "X-Worker" in broker.call("add_header", bundle="one").request.set_headers


def kept(broker: RunningBroker, value: str) -> bool:
    """Store and load; retry empty answers of a busy machine or a Redis that is starting."""
    broker.call("store", bundle="hooks", headers=[("Value", value)])
    return broker.call("load", bundle="hooks").request.set_headers["Value"] == value


def test_values_live_in_redis_and_dispatches_survive_its_loss(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as redis,
        running_broker(tmp_path, "--redis", redis.url, workers=2, files={"hooks.py": SOURCE}) as broker,
    ):
        wait_until(lambda: kept(broker, "in Redis"), lambda: f"a value in Redis; the log:\n{broker.log}")
        with redis.client() as client:
            assert client.get("coprocess-data:key") == b"in Redis"
        redis.stop()
        assert broker.call("load", bundle="hooks").request.set_headers["Value"] == ""
        broker.wait_for_log("tykpy.storage")
        redis.start()
        wait_until(lambda: kept(broker, "again"), lambda: f"recovery; the log:\n{broker.log}")


def storage_of(broker: RunningBroker) -> dict[str, Any]:
    status = broker.status()["storage"]
    assert isinstance(status, dict)
    return status


def test_a_redis_that_is_down_at_the_start_is_a_warning(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    with running_broker(tmp_path, "--redis", redis.url, workers=2, files={"hooks.py": SOURCE}) as broker:
        broker.wait_for_log("WARNING [")
        assert re.search(rf"WARNING \[\d+\] tykpy.storage: Redis at {redis.url} does not answer", broker.log)
        wait_until(lambda: storage_of(broker)["state"] == "fails", lambda: str(storage_of(broker)))
        errors = storage_of(broker)["errors"]
        assert errors >= 1
        # A worker that ends removes nothing, and the next one does not check again.
        for row in broker.status()["workers"]:
            os.kill(row["pid"], signal.SIGKILL)
            wait_until(lambda: row["pid"] not in pids(broker), lambda: broker.log)  # noqa: B023
        broker.wait_for_log("was ended by SIGKILL")
        wait_until(
            lambda: storage_of(broker) == {"kind": "redis", "place": redis.url, "state": "unused", "errors": errors},
            lambda: str(storage_of(broker)),
        )
        with running(redis):
            wait_until(lambda: kept(broker, "late"), lambda: f"a value in Redis; the log:\n{broker.log}")
            assert storage_of(broker)["state"] == "works"


def pids(broker: RunningBroker) -> set[int]:
    return {row["pid"] for row in broker.status()["workers"]}


def test_the_state_of_the_embedded_storage(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path)
    broker.add_file("hooks.py", SOURCE)
    file = broker.runtime / "storage.sqlite3"
    with broker:
        place = str(broker.runtime)
        assert storage_of(broker) == {"kind": "embedded", "place": place, "state": "unused", "errors": 0}
        file.write_bytes(b"no database" * 1000)
        file.chmod(0o600)
        for errors in (1, 2):
            broker.call("store", bundle="hooks", headers=[("Value", "x")])
            assert storage_of(broker) == {"kind": "embedded", "place": place, "state": "fails", "errors": errors}
        file.unlink()
        assert kept(broker, "sound")
        assert storage_of(broker) == {"kind": "embedded", "place": place, "state": "works", "errors": 2}
