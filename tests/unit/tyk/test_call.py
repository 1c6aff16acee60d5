"""`tyk.current()` and the metadata of a call."""

import pytest

from tyk import Call, current
from tyk.call import METADATA
from tyk.gateway.testing import fake_call
from tykpy.broker.grpc.wire import pack_fields


def told(*fields: tuple[bytes, bytes]) -> dict[str, str | bytes]:
    before = METADATA.set(pack_fields(*fields))
    try:
        return dict(current().metadata)
    finally:
        METADATA.reset(before)


def test_values_of_one_name_are_joined() -> None:
    assert told((b"tracestate", b"a=1"), (b"other", b""), (b"tracestate", b"b=2")) == {
        "tracestate": "a=1,b=2",
        "other": "",
    }


@pytest.mark.parametrize("coded", [b"AAH/", b"AAH/,BBBB", b" AAH/ "])
def test_binary_values_are_bytes(coded: bytes) -> None:
    assert told((b"key-bin", coded), (b"key-bin", b"CCCC")) == {"key-bin": b"\0\1\xff"}


def test_padding_may_be_left_out() -> None:
    assert told((b"a-bin", b"AQI"), (b"b-bin", b"AQI=")) == {"a-bin": b"\1\2", "b-bin": b"\1\2"}


def test_undecodable_values_are_dropped_or_replaced() -> None:
    assert told((b"a-bin", b"!"), (b"text", b"\xff")) == {"text": "�"}


def test_fields_of_grpc_itself_are_not_metadata() -> None:
    own = (
        (b"grpc-timeout", b"1S"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"x"),
        (b"te", b"trailers"),
    )
    assert told((b"first", b"1"), *own, (b"last", b"2")) == {"first": "1", "last": "2"}


def test_metadata_is_empty_without_a_call() -> None:
    assert dict(current().metadata) == {}


def test_metadata_is_read_only() -> None:
    with fake_call({"a": "1"}), pytest.raises(TypeError):
        current().metadata["a"] = "2"  # type: ignore[index]
    assert dict(current().metadata) == {}


def test_repr_shows_metadata() -> None:
    assert repr(Call({"a": "1"})) == "Call(metadata={'a': '1'})"
