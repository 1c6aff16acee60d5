"""What is read from the bytes of an Object without decoding it, in protobuf and in MessagePack."""

from typing import Any

import msgpack
import pytest

from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.router.peek import _MAX_REMEMBERED, Peek, PeekError, _remembered, peek, peek_handler, peek_map
from tykpy.ipc.frame import Kind


def typical() -> Object:
    obj = Object(hook_type="Post", hook_name="MyPost")
    obj.request.headers["Host"] = "example.com"
    obj.request.raw_body = b"\xff" * 300
    obj.session.org_id = "not this one"
    obj.metadata["APIID"] = "not this one"
    obj.spec.update(APIID="api", OrgID="org", bundle_hash="abc", config_data='{"x": "y"}' * 100)
    return obj


def test_a_typical_object() -> None:
    seen = peek(typical().SerializeToString())
    assert seen == Peek(2, "MyPost", "api", "abc")
    assert seen.hook_type == 2


def test_absent_fields_are_empty() -> None:
    assert peek(b"") == Peek(0, "", "", "")
    assert peek(Object().SerializeToString()).hook_type == 0


def test_the_last_of_equal_fields_counts() -> None:
    first, last = typical(), Object(hook_type="Pre", hook_name="last", spec={"APIID": "other"})
    both = first.SerializeToString() + last.SerializeToString()
    assert peek(both) == Peek(1, "last", "other", "abc")


def test_fields_of_a_newer_gateway_are_stepped_over() -> None:
    unknown = b"\x78\x05" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\xfa\x7f\x03abc" + b"\x83\x01\x08\x01\x84\x01"
    assert peek(unknown + typical().SerializeToString() + unknown).hook_name == "MyPost"


def test_entries_of_spec_in_any_form() -> None:
    assert peek(b"\x32\x0a\x12\x01x\x0a\x05APIID").api_id == "x"
    assert peek(b"\x32\x07\x0a\x05APIID").api_id == ""
    assert peek(Object(spec={"APIID": "x" * 200}).SerializeToString()).api_id == "x" * 200


def test_entries_with_extra_fields_are_ignored_as_in_protobuf() -> None:
    data = b"\x32\x0c\x0a\x05APIID\x12\x01x\x18\x01"
    assert "APIID" not in Object.FromString(data).spec
    assert peek(data).api_id == ""


@pytest.mark.parametrize(
    "part",
    [
        b"\x1a\x00",
        b"\x32\x00",
        b"\x32\x04\x0a\x00\x12\x00",
        b"\x08\x01",
        b"\x78\x05",
        b"\xfa\x7f\x00",
        b"\x7b\x7c",
        b"\x7b" + b"\x08\x01" * 100 + b"\x7c",
    ],
    ids=bytes.hex,
)
def test_the_number_of_fields_is_bounded(part: bytes) -> None:
    """A walk of the 30 million fields that a message may have keeps the event loop for half a minute."""
    with pytest.raises(PeekError, match=r"more than \d+ (unknown )?fields"):
        peek(typical().SerializeToString() + part * 20_000)


def test_the_fields_of_a_group_are_bounded() -> None:
    with pytest.raises(PeekError, match="a group of too many fields"):
        peek(b"\x7b" + b"\x08\x01" * 10_000 + b"\x7c")


def test_the_fields_of_an_entry_are_bounded() -> None:
    assert peek(b"\x32\x1e" + b"\x0a\x00" * 15).api_id == ""
    with pytest.raises(PeekError, match="an entry of spec with 16 fields"):
        peek(b"\x32\xa0\x9c\x01" + b"\x0a\x00" * 10_000)


def test_many_entries_are_read() -> None:
    obj = typical()
    obj.spec.update({f"k{number}": "v" for number in range(4_000)})
    obj.metadata.update({f"k{number}": "v" for number in range(4_000)})
    assert peek(obj.SerializeToString()) == Peek(2, "MyPost", "api", "abc")


def test_the_fields_of_an_event_are_bounded() -> None:
    payload = Event(payload='{"handler_name": "my_handler"}').SerializeToString()
    assert peek_handler(Kind.EVENT, payload) == "my_handler"
    assert peek_handler(Kind.EVENT, payload + b"\x12\x00" * 10_000) == ""


def test_a_hook_type_of_the_future() -> None:
    assert peek(b"\x08\x63").hook_type == 99


def test_every_cut_at_the_top_level_is_noticed() -> None:
    data = Object(hook_type="Pre", hook_name="name", spec={"APIID": "x"}).SerializeToString()
    boundaries = {0, 2, 8, len(data)}
    for end in range(len(data) + 1):
        if end in boundaries:
            peek(data[:end])
        else:
            with pytest.raises(PeekError):
                peek(data[:end])


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01",  # field 0
        b"\x0c",  # the end of a group that did not begin
        b"\x7b",  # a group without an end
        b"\x7b\x84\x01",  # a group that ends as another
        b"\x0f",  # wire type 7
        b"\x08" + b"\x80" * 10 + b"\x01",  # a number of eleven bytes
        b"\x12\xff\xff\xff\xff\x0f",  # a length beyond the end
        b"\x12\x01\xff",  # not UTF-8
        b"\x32\x0a\x0a\x05APIID\x12\x01\xff",
        b"\x32\x02\x0a\x05",  # a length beyond its entry
        b"\x7b" * 200,
        b"GET / HTTP/1.1",
    ],
)
def test_bytes_that_are_no_object_are_an_error(data: bytes) -> None:
    with pytest.raises(PeekError, match=r"not a coprocess\.Object") as caught:
        peek(data)
    assert isinstance(caught.value, ValueError)


def test_remembered_results_are_not_mixed_up() -> None:
    spec = Object(spec={"APIID": "one", "bundle_hash": "b"}).SerializeToString()
    first = Object(hook_name="first", request={"url": "/a"}).SerializeToString() + spec
    second = Object(hook_name="second", request={"url": "/b"}).SerializeToString() + spec
    overriding = first + Object(hook_name="later").SerializeToString()
    for _ in range(2):
        assert peek(first)[1:] == ("first", "one", "b")
        assert peek(second)[1:] == ("second", "one", "b")
        assert peek(overriding)[1:] == ("later", "one", "b")


def test_remembered_results_are_bounded() -> None:
    for number in range(3000):
        name = f"hook{number}"
        assert peek(Object(hook_name=name, spec={"APIID": name}).SerializeToString()).hook_name == name
    assert len(_remembered) <= _MAX_REMEMBERED


SPEC = {"APIID": "api", "OrgID": "org", "bundle_hash": "abc", "config_data": "{}"}


def test_fields_of_a_map_are_found_between_others() -> None:
    body = msgpack.packb(
        {"request": {"raw_body": b"\xff", "spec": {"APIID": "no"}}, "spec": SPEC, "hook_type": 2, "hook_name": "H"}
    )
    assert peek_map(body) == Peek(2, "H", "api", "abc")


@pytest.mark.parametrize("value", [{}, {"hook_type": None, "hook_name": None, "spec": None}])
def test_absent_and_nil_fields_are_zero_and_empty(value: dict[str, Any]) -> None:
    assert peek_map(msgpack.packb(value)) == Peek(0, "", "", "")


def test_a_hook_type_may_be_a_name() -> None:
    assert peek_map(msgpack.packb({"hook_type": "CustomKeyCheck"})).hook_type == 4


def test_the_last_of_equal_keys_counts() -> None:
    twice = b"\x82" + msgpack.packb("hook_name") + msgpack.packb("a") + msgpack.packb("hook_name") + msgpack.packb("b")
    assert peek_map(twice).hook_name == msgpack.unpackb(twice)["hook_name"] == "b"


@pytest.mark.parametrize(
    "value",
    [1, [], "x", {"hook_type": "Sideways"}, {"hook_type": 1.5}, {"hook_name": 5}, {"spec": []}, {"spec": {"APIID": 1}}],
)
def test_a_map_that_is_no_object_is_an_error(value: Any) -> None:
    with pytest.raises(PeekError):
        peek_map(msgpack.packb(value))


@pytest.mark.parametrize("body", [b"", b"\x81", b"\x81\xa1a", b"\xc1", b"\x81\xa9hook_name\xa1\xff", b"\x81\x90\x01"])
def test_a_broken_map_is_an_error(body: bytes) -> None:
    with pytest.raises(PeekError):
        peek_map(body)
