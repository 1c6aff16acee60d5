"""Maps and messages convert into each other without loss; any other value is an error that names its path."""

import contextlib
from typing import Any

import msgpack
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.workers.objects.msgpack_codec import FieldError, from_map, to_map

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
    with contextlib.suppress(FieldError):
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
        ({"nope": 1}, "nope: Object has no such field"),
        ({"request": {"return_overrides": {"code": 1}}}, "request.return_overrides.code: ReturnOverrides has no"),
        ({"request": {"raw_body": "text"}}, "request.raw_body: expected binary, got str"),
        ({"request": {"body": b"x"}}, "request.body: expected a string, got bytes"),
        ({"request": {"headers": {"a": 1}}}, "request.headers['a']: expected a string, got 1"),
        ({"request": {"delete_headers": "abc"}}, "request.delete_headers: expected an array, got str"),
        ({"request": {"delete_headers": ["a", None]}}, "request.delete_headers[1]: expected a string, got NoneType"),
        ({"session": {"rate": True}}, "session.rate: expected a number, got True"),
        ({"session": {"last_check": 1 << 63}}, "session.last_check: expected an integer of 64 bits"),
        ({"session": {"last_check": 1.0}}, "session.last_check: expected an integer of 64 bits, got 1.0"),
        ({"session": {"access_rights": {"a": {"versions": [1]}}}}, "session.access_rights['a'].versions[0]: expected"),
        ({"session": {"hmac_enabled": 1}}, "session.hmac_enabled: expected true or false, got 1"),
        ({"hook_type": "Nope"}, "hook_type: expected one of Unknown, Pre, Post"),
        ({"response": []}, "response: expected a map, got list"),
        ([], "the message: expected a map, got list"),
    ],
)
def test_an_error_names_the_field(fields: Any, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        from_map(Object, fields)
    assert message in str(caught.value)
