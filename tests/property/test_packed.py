"""Objects that come as MessagePack: read as the mapping reads them, and answered with exactly what a hook left."""

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.test_mapping import ANYTHING, FIELD_NAMES, OBJECTS, messages
from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Event, Object
from tyk.proto.coprocess_session_state_pb2 import SessionState
from tykpy.ipc.frame import Kind, unpack_frame
from tykpy.workers.objects.mapping import FieldError, from_map, to_map
from tykpy.workers.objects.msgpack_object import PackedObject, unpack_event
from tykpy.workers.objects.msgpack_object import _heads as known_heads

REQUESTS = messages(MiniRequestObject.DESCRIPTOR)
SESSIONS = messages(SessionState.DESCRIPTOR)


def answered(packed: PackedObject, message: Object) -> Any:
    frame = unpack_frame(packed.answer(message))
    assert frame.kind == Kind.OBJECT_MAP
    return msgpack.unpackb(frame.body)


@given(OBJECTS)
def test_what_no_hook_changed_is_answered_as_the_mapping_writes_it(fields: Any) -> None:
    packed = PackedObject(msgpack.packb(fields))
    assert packed.message == from_map(Object, fields)
    assert answered(packed, packed.message) == to_map(packed.message)


@given(OBJECTS)
def test_an_object_whose_request_nobody_asked_for_is_answered_with_the_same_content(fields: Any) -> None:
    packed = PackedObject(msgpack.packb(fields))
    untouched = packed.subject.HasField("request")
    assert from_map(Object, answered(packed, packed.subject)) == from_map(Object, fields)
    assert packed.subject.HasField("request") == untouched


def test_what_is_remembered_of_one_call_is_not_changed_by_another() -> None:
    body = msgpack.packb({"hook_type": "Post", "hook_name": "H", "request": {}, "spec": {"APIID": "a"}})
    first = PackedObject(body)
    first.subject.spec["APIID"] = "b"
    first.subject.hook_name = "other"
    assert answered(first, first.subject) == {
        "hook_type": 2,
        "hook_name": "other",
        "request": {},
        "spec": {"APIID": "b"},
    }
    second = PackedObject(body)
    assert answered(second, second.subject) == {"hook_type": 2, "hook_name": "H", "request": {}, "spec": {"APIID": "a"}}


def test_what_is_remembered_is_bounded() -> None:
    for number in range(2000):
        one = PackedObject(msgpack.packb({"spec": {"APIID": str(number)}, "request": {}}))
        assert one.head.api == str(number)
    PackedObject(msgpack.packb({"spec": {"APIID": "x" * 4000}, "request": {}}))
    assert 0 < len(known_heads) <= 1024
    assert all(len(spec) < 4000 for _, _, spec in known_heads)


@given(OBJECTS, OBJECTS)
def test_another_object_is_answered_whole(fields: Any, others: Any) -> None:
    message = from_map(Object, others)
    assert answered(PackedObject(msgpack.packb(fields)), message) == to_map(message)


@given(OBJECTS, REQUESTS)
def test_changes_in_the_request_are_answered(fields: Any, changes: Any) -> None:
    packed = PackedObject(msgpack.packb({"request": {}, **fields}))
    request = packed.message.request
    for name in changes:
        request.ClearField(name)
    request.MergeFrom(MiniRequestObject(**changes))
    assert answered(packed, packed.message) == to_map(packed.message)


@given(OBJECTS, SESSIONS)
def test_changes_in_the_session_are_answered(fields: Any, changes: Any) -> None:
    packed = PackedObject(msgpack.packb({"session": {}, **fields}))
    session = packed.message.session
    for name in changes:
        session.ClearField(name)
    session.MergeFrom(SessionState(**changes))
    assert answered(packed, packed.message) == to_map(packed.message)


RIGHTS: dict[str, Any] = {
    "a": {"api_id": "a", "versions": ["v"], "allowed_urls": [{"url": "/", "methods": ["GET"]}]},
    "b": {"api_name": ""},
}


@pytest.mark.parametrize(
    "after",
    [RIGHTS, {**RIGHTS, "b": {"api_name": "b"}}, {"a": RIGHTS["a"]}, {**RIGHTS, "c": {}}, {"a": {}, "c": {}}, {}],
)
def test_a_changed_session_keeps_or_changes_its_access_rights(after: Any) -> None:
    packed = PackedObject(msgpack.packb({"session": {"access_rights": RIGHTS, "rate": 1.0}}))
    message = from_map(Object, {"session": {"access_rights": after, "metadata": {"token": "t"}}})
    assert answered(packed, message) == to_map(message)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"set_headers": {"a": "1", "b": "2"}}, {"set_headers": {"b": "3"}}),
        ({"set_headers": {"a": "1"}}, {}),
        ({"delete_headers": ["a", "b"], "add_params": {"a": "b"}}, {"delete_headers": ["b"], "add_params": {}}),
        ({"return_overrides": {"response_code": -1}}, {"return_overrides": {}}),
        ({"return_overrides": {"headers": {"a": "b"}}}, {}),
        ({"url": "/", "raw_body": b"x"}, {"raw_body": b""}),
        ({"headers": {"a": "b"}, "params": {"c": "d"}}, {"headers": {"a": "c"}, "params": {"c": "d"}}),
        ({"body": ""}, {"set_headers": {"a": "b"}, "delete_params": ["x"], "url": "/y"}),
    ],
)
def test_a_request_that_loses_or_replaces_something(before: Any, after: Any) -> None:
    message = from_map(Object, {"request": after})
    assert answered(PackedObject(msgpack.packb({"request": before})), message) == to_map(message)


def test_the_message_is_not_touched_by_its_answer() -> None:
    packed = PackedObject(msgpack.packb({"request": {"set_headers": {"a": "1"}, "url": "/"}}))
    packed.message.request.delete_headers.append("b")
    packed.message.request.set_headers["c"] = "d"
    before = packed.message.SerializeToString(deterministic=True)
    packed.answer(packed.message)
    assert packed.message.SerializeToString(deterministic=True) == before


def test_minus_zero_is_no_default() -> None:
    packed = PackedObject(msgpack.packb({"session": {"rate": -0.0, "per": 0.0}}))
    assert str(answered(packed, packed.message)) == "{'session': {'rate': -0.0}}"


@given(st.dictionaries(FIELD_NAMES, ANYTHING, max_size=4) | ANYTHING)
def test_what_is_refused_and_why_is_the_mapping_s_to_say(fields: Any) -> None:
    try:
        body: bytes = msgpack.packb(fields)
    except (OverflowError, ValueError):
        return
    assert _outcome(lambda: PackedObject(body).message) == _outcome(
        lambda: from_map(Object, msgpack.unpackb(body, strict_map_key=False))
    )


def _outcome(make: Callable[[], Object]) -> bytes | str:
    """The message's bytes, in which NaN is like NaN, or the error."""
    try:
        return make().SerializeToString(deterministic=True)
    except FieldError as error:
        return str(error)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_object_or_a_value_error(body: bytes) -> None:
    try:
        message = PackedObject(body).message
    except ValueError:
        return
    expected = from_map(Object, msgpack.unpackb(body, strict_map_key=False))
    assert message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x80\x80", b"\x81\xa3url\xa1\xff", b"\x81\xa7request" + b"\x91" * 5000]
)
def test_what_is_no_messagepack_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        PackedObject(body)
    with pytest.raises(ValueError, match=r"."):
        unpack_event(body)


def test_an_event_is_read_and_refused_likewise() -> None:
    assert unpack_event(msgpack.packb({"payload": "{}"})) == Event(payload="{}")
    with pytest.raises(FieldError, match="payload: expected a string, got bytes"):
        unpack_event(msgpack.packb({"payload": b"{}"}))
