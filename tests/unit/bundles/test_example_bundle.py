"""The example bundle: its hooks run in the order of its manifest."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import Served, subject
from tests.support.root import ROOT
from tyk import metrics
from tyk.gateway import TykGateway, install, restore
from tyk.gateway.backend import MemoryStorage
from tyk.proto.coprocess_object_pb2 import Event
from tyk.proto.coprocess_response_object_pb2 import Header
from tykpy.ipc.frame import Kind, pack_frame

EXAMPLES = ROOT / "examples"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """The example, as `tykpy broker --bundles examples/bundles` loads it."""
    one = Served(EXAMPLES / "bundles" / "example", tmp_path)
    assert [bundle.problems for bundle in one.store.loaded()] == [[]]
    yield one
    one.close()


def test_both_pre_hooks_run_as_a_chain(served: Served) -> None:
    answer = served.run(subject("*", "example"))
    assert answer.request.set_headers["X-Request-Id"].startswith("api-")
    assert answer.request.return_overrides.response_code == -1


def test_an_old_client_is_answered_at_once(served: Served) -> None:
    answer = served.run(subject("*", "example", request={"headers": {"X-Client-Version": "1"}}))
    assert answer.request.return_overrides.response_code == 426
    assert "version 2" in answer.request.return_overrides.response_error


@pytest.mark.parametrize(("token", "alias"), [("gold-token", "alice"), ("free-token", "bob")])
def test_a_known_token_becomes_a_session(served: Served, token: str, alias: str) -> None:
    request = {"headers": {"Authorization": token}}
    answer = served.run(subject("CheckToken", "example", "CustomKeyCheck", request=request))
    assert (answer.session.alias, answer.session.metadata["token"]) == (alias, token)


def test_an_unknown_token_is_refused(served: Served) -> None:
    answer = served.run(subject("CheckToken", "example", "CustomKeyCheck"))
    assert answer.request.return_overrides.response_code == 401
    assert not answer.HasField("session")


def test_upstream_gets_the_caller_and_not_the_token(served: Served) -> None:
    answer = served.run(subject("*", "example", "PostKeyAuth", session={"metadata": {"owner": "alice"}}))
    assert dict(answer.request.set_headers) == {"X-Owner": "alice"}
    assert list(answer.request.delete_headers) == ["Authorization"]


def test_the_body_is_rewritten_and_the_region_looked_up(served: Served) -> None:
    answer = served.run(subject("*", "example", "Post", request={"raw_body": b'{"a": 1}'}))
    assert json.loads(answer.request.raw_body) == {"a": 1, "handled_by": "tykpy"}
    assert answer.request.set_headers["X-Region"] == "eu-west"
    assert list(answer.request.delete_params) == ["debug"]


def test_response_hides_the_upstream(served: Served) -> None:
    response = {
        "status_code": 200, "headers": {"Server": "x"}, "multivalue_headers": [Header(key="Server", values=["x"])]
    }  # fmt: skip
    answer = served.run(subject("HideServer", "example", "Response", response=response))
    assert dict(answer.response.headers) == {"X-Handled-By": "tykpy"}


def test_refused_keys_are_counted(served: Served) -> None:
    payload = {"message": {"Type": "AuthFailure", "Meta": {"Path": "/x"}}, "handler_name": "OnAuthFailure"}
    frame = pack_frame(
        Kind.EVENT, None, Event(payload=json.dumps({**payload, "spec": {"APIID": "a"}})).SerializeToString()
    )
    previous = install(storage=MemoryStorage())
    try:
        served.frame(frame)
        served.frame(frame)
        assert TykGateway.get_data("refused:a") == b"2"
        assert ("refused_keys_total", {"api": "a"}, 2.0) in metrics.collect()
    finally:
        restore(previous)
