"""A broker with the bundles and the storage of a real installation: ZIPs, a gateway's folder, Redis."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from broker.grpc.client import GrpcCallError
from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE
from tests.support.redis_server import running_redis

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
    """Store and load; a call that finds a busy machine or a Redis that starts is answered empty, and tried again."""
    broker.call("store", bundle="hooks", headers=[("Value", value)])
    return broker.call("load", bundle="hooks").request.set_headers["Value"] == value


def test_values_are_kept_in_redis_and_dispatches_go_on_without_it(tmp_path: Path) -> None:
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
