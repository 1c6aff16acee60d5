"""Maps and messages convert into each other without loss; any other value is an error that names its path."""

import contextlib
import re
from typing import Any

import msgpack
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from tests.support.maps import from_map
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.workers.objects.msgpack_codec import to_map

_SCALARS: dict[int, Any] = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=5),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=5),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 5),
}


def messages(descriptor: Any) -> Any:
    """Generate maps that have some of a message's fields."""
    return st.fixed_dictionaries({}, optional={field.name: values(field) for field in descriptor.fields})


def values(field: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return st.dictionaries(st.text(max_size=3), single(field.message_type.fields_by_name["value"]), max_size=2)
    return st.lists(single(field), max_size=2) if field.is_repeated else single(field)


def single(field: Any) -> Any:
    return _SCALARS[field.type] if field.message_type is None else messages(field.message_type)


OBJECTS = messages(Object.DESCRIPTOR)
FIELD_NAMES = st.sampled_from(["request", "session", "headers", "raw_body", "url", "rate", "hook_type", "spec"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


@given(OBJECTS)
def test_maps_and_messages_convert_back_and_forth(fields: Any) -> None:
    message = from_map(Object, fields)
    again = msgpack.unpackb(msgpack.packb(to_map(message)))
    assert from_map(Object, again) == message
    assert to_map(message) == again
    for name in ("request", "session", "response"):
        assert message.HasField(name) == (name in fields) == (name in again)


@given(st.dictionaries(FIELD_NAMES, ANYTHING, max_size=4) | ANYTHING)
def test_any_other_value_is_an_error_with_a_path(fields: Any) -> None:
    with contextlib.suppress(ValueError):
        from_map(Object, fields)


def test_types_are_kept() -> None:
    fields = {
        "hook_type": 1,
        "request": {"raw_body": b"\xff", "body": "text", "return_overrides": {}},
        "session": {"rate": 3.0, "last_check": 1 << 62, "hmac_enabled": True, "tags": ["a"]},
        "spec": {"APIID": "x"},
    }
    back = to_map(from_map(Object, fields))
    assert back == fields
    assert type(back["session"]["rate"]) is float
    assert type(back["session"]["last_check"]) is int


def test_enums_may_be_names_and_none_is_absent() -> None:
    message = from_map(Object, {"hook_type": "Response", "session": None, "request": {"headers": None}})
    assert message.hook_type == 5
    assert not message.HasField("session")
    assert message.HasField("request")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nope": 1}, "the message: Object contains unknown field `nope`"),
        ({"request": {"return_overrides": {"code": 1}}}, "request.return_overrides: Object contains unknown field"),
        ({"request": {"raw_body": "text"}}, "request.raw_body: Expected `bytes`, got `str`"),
        ({"request": {"body": b"x"}}, "request.body: Expected `str`, got `bytes`"),
        ({"request": {"headers": {"a": 1}}}, "request.headers[...]: Expected `str`, got `int`"),
        ({"request": {"headers": {1: "a"}}}, "key in request.headers: Expected `str`, got `int`"),
        ({"request": {"delete_headers": "abc"}}, "request.delete_headers: Expected `array`, got `str`"),
        ({"request": {"delete_headers": ["a", None]}}, "request.delete_headers[1]: Expected `str`, got `None`"),
        ({"session": {"rate": True}}, "session.rate: Expected `float`, got `bool`"),
        ({"session": {"last_check": 1 << 63}}, "session.last_check: Expected `int` <= 9223372036854775807"),
        ({"session": {"last_check": 1.0}}, "session.last_check: Expected `int`, got `float`"),
        ({"session": {"access_rights": {"a": {"versions": [1]}}}}, "session.access_rights[...].versions[0]: Expected"),
        ({"session": {"hmac_enabled": 1}}, "session.hmac_enabled: Expected `bool`, got `int`"),
        ({"hook_type": "Nope"}, "hook_type: Invalid enum value 'Nope'"),
        ({"response": []}, "response: Expected `object`, got `array`"),
        ([], "the message: Expected `object`, got `array`"),
    ],
)
def test_an_error_names_the_field(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        from_map(Object, fields)
