"""The request wrapper: the gateway's object, with short ways to headers and parameters."""

import pytest

from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import MiniRequestObject, TykCoProcessRequest, TykRequest, canonical_header


@pytest.fixture
def request_() -> TykCoProcessRequest:
    headers = {"Content-Type": "text/plain", "X-Api-Key": "canonical", "x-lower": "lower", "X-Empty": ""}
    return TykCoProcessRequest(MiniRequestObject(headers=headers, method="GET", url="/path?a=1"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("X-Api-Key", "canonical"),
        ("x-api-key", "canonical"),
        ("X-API-KEY", "canonical"),
        ("x-lower", "lower"),
        ("X-Lower", "lower"),
        ("X-Empty", ""),
        ("x-empty", ""),
        ("Missing", None),
        ("", None),
    ],
)
def test_get_header(request_: TykCoProcessRequest, key: str, value: str | None) -> None:
    assert request_.get_header(key) == value


def test_the_exact_spelling_wins() -> None:
    request = TykRequest(MiniRequestObject(headers={"x-a": "exact", "X-A": "canonical"}))
    assert request.get_header("x-a") == "exact"
    assert request.get_header("X-A") == "canonical"


def test_get_header_adds_no_header(request_: TykCoProcessRequest) -> None:
    before = dict(request_.object.headers)
    request_.get_header("Missing")
    assert dict(request_.object.headers) == before


def test_changes_go_into_the_object(request_: TykCoProcessRequest) -> None:
    request_.add_header("A", "1")
    request_.add_header("A", "2")
    request_.delete_header("B")
    request_.delete_header("C")
    request_.add_param("d", "3")
    request_.delete_param("e")
    assert dict(request_.object.set_headers) == {"A": "2"}
    assert list(request_.object.delete_headers) == ["B", "C"]
    assert dict(request_.object.add_params) == {"d": "3"}
    assert list(request_.object.delete_params) == ["e"]
    assert request_.get_header("A") is None


def test_the_object_is_the_gateways_own() -> None:
    message = Object(request={"method": "GET"})
    request = TykCoProcessRequest(message.request)
    request.object.return_overrides.response_code = 401
    request.object.raw_body = b"\xff"
    assert message.request.return_overrides.response_code == 401
    assert message.request.raw_body == b"\xff"


def test_canonical_header() -> None:
    assert canonical_header("x-API-key") == "X-Api-Key"
    assert canonical_header("etag") == "Etag"


def test_repr(request_: TykCoProcessRequest) -> None:
    assert repr(request_) == "<TykCoProcessRequest GET /path?a=1>"
