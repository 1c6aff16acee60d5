"""An event goes to the handler of the bundle that its API uses."""

import json
import threading
from pathlib import Path
from queue import Empty

import pytest

from tests.support.broker import wait_until
from tests.support.bundles import md5, subject, write_bundle
from tests.unit.conftest import Serve
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.ipc.frame import Kind, Packed, pack_frame
from tykpy.workers.api_bundles import NOTICE_S, ApiBundles

SOURCE = """
from pathlib import Path

@Event
def handle(event, spec):
    Path({seen!r}).write_text({name!r})

@Hook
def H(request, session, spec):
    return request, session
"""


def write(folder: Path, name: str, seen: Path) -> None:
    write_bundle(folder / name, {"middleware.py": SOURCE.format(seen=str(seen), name=name)})


def event(api: str = "api") -> Packed:
    payload = {"message": {}, "handler_name": "handle", "spec": {"APIID": api}}
    return pack_frame(Kind.EVENT, None, Event(payload=json.dumps(payload)).SerializeToString())


def test_one_dispatch_tells_the_bundle_of_an_api(folder: Path, serve: Serve, tmp_path: Path) -> None:
    for name in ("foo", "bar"):
        write(folder, name, tmp_path / "seen")
    served = serve()
    for name in ("foo", "bar"):
        served.run(subject("H", name, spec={"APIID": name}))
    for name in ("foo", "bar"):
        served.frame(event(name))
        assert (tmp_path / "seen").read_text() == name


def test_an_api_told_by_the_broker_is_enough(folder: Path, serve: Serve, tmp_path: Path) -> None:
    for name in ("foo", "bar"):
        write(folder, name, tmp_path / "seen")
    served = serve()
    served.dispatcher.learn({"api": md5("bar")})
    served.frame(event())
    assert (tmp_path / "seen").read_text() == "bar"


def test_a_notice_of_the_broker_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tykpy.workers.api_bundles.NOTICE_S", 30.0)
    apis = ApiBundles()

    def learn_when_somebody_waits() -> None:
        wait_until(lambda: bool(apis._waiting), lambda: "somebody waits")
        apis.learn({"api": md5("bar")})

    heard = threading.Thread(target=learn_when_somebody_waits)
    heard.start()
    assert apis.find("api") == md5("bar")
    heard.join()


def test_an_unknown_api_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Nothing:
        def get(self, timeout: float) -> None:
            waited.append(timeout)
            raise Empty

    monkeypatch.setattr("tykpy.workers.api_bundles.SimpleQueue", Nothing)
    apis = ApiBundles()
    assert [apis.find("api"), apis.find("api")] == [None, None]
    (seconds,) = waited
    assert 0 < seconds <= NOTICE_S


def test_a_bundle_without_the_handler_is_passed_over(folder: Path, serve: Serve, tmp_path: Path) -> None:
    write(folder, "foo", tmp_path / "seen")
    write_bundle(
        folder / "bar", {"middleware.py": "@Hook\ndef H(request, session, spec):\n    return request, session\n"}
    )
    served = serve()
    served.run(subject("H", "bar"))
    served.frame(event())
    assert (tmp_path / "seen").read_text() == "foo"
