"""Objects and events in MessagePack: any bytes are a message or a ValueError."""

from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.test_maps import ANYTHING, FIELD_NAMES, OBJECTS
from tests.support.maps import from_map
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.workers.objects.msgpack_codec import decode, encode


@given(OBJECTS)
def test_a_message_survives_encoding(fields: object) -> None:
    message = from_map(Object, fields)
    assert decode(Object, msgpack.packb(fields)) == message
    assert decode(Object, encode(message)) == message


@pytest.mark.parametrize(
    ("fields", "encoded"),
    [
        ({"return_overrides": {"response_code": 0}, "headers": {}, "url": ""}, {"return_overrides": {}}),
        ({"return_overrides": {"headers": {"a": "b"}}}, {"return_overrides": {"headers": {"a": "b"}}}),
        ({"delete_headers": [], "raw_body": b"\xff", "body": None}, {"raw_body": b"\xff"}),
        ({}, {}),
    ],
)
def test_defaults_are_left_out(fields: object, encoded: object) -> None:
    assert msgpack.unpackb(encode(from_map(Object, {"request": fields}))) == {"request": encoded}


def test_access_rights_are_encoded() -> None:
    rights = {
        "a": {"api_id": "a", "versions": ["v"], "allowed_urls": [{"url": "/", "methods": ["GET"]}]},
        "b": {},
    }
    fields = {"session": {"access_rights": rights, "rate": 1.0}}
    assert msgpack.unpackb(encode(from_map(Object, fields))) == fields


def test_minus_zero_is_not_a_default() -> None:
    message = decode(Object, msgpack.packb({"session": {"rate": -0.0, "per": 0.0}}))
    assert str(msgpack.unpackb(encode(message))) == "{'session': {'rate': -0.0}}"


@given(st.dictionaries(FIELD_NAMES, ANYTHING, max_size=4) | ANYTHING)
def test_packed_maps_fail_like_maps(fields: object) -> None:
    try:
        body: bytes = msgpack.packb(fields)
    except (OverflowError, ValueError):
        return
    assert _outcome(lambda: decode(Object, body)) == _outcome(
        lambda: from_map(Object, msgpack.unpackb(body, strict_map_key=False))
    )


def _outcome(make: Callable[[], Object]) -> bytes | str:
    """Return the message as bytes, so that NaN equals NaN, or the error."""
    try:
        return make().SerializeToString(deterministic=True)
    except ValueError as error:
        return str(error)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_object_or_a_value_error(body: bytes) -> None:
    try:
        message = decode(Object, body)
    except ValueError:
        return
    expected = from_map(Object, msgpack.unpackb(body, strict_map_key=False))
    assert message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x80\x80", b"\x81\xa3url\xa1\xff", b"\x81\xa7request" + b"\x91" * 5000]
)
def test_bytes_that_are_not_messagepack(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(Object, body)
    with pytest.raises(ValueError, match=r"."):
        decode(Event, body)


def test_an_event_is_decoded_or_refused() -> None:
    assert decode(Event, msgpack.packb({"payload": "{}"})) == Event(payload="{}")
    with pytest.raises(ValueError, match="payload: Expected `str`, got `bytes`"):
        decode(Event, msgpack.packb({"payload": b"{}"}))
