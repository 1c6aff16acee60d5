"""Peeking into an Object's map."""

from typing import Any

import msgpack
import pytest

from tykpy.broker.router.peek import Peek, PeekError, peek_map

SPEC = {"APIID": "api", "OrgID": "org", "bundle_hash": "abc", "config_data": "{}"}


def test_the_routing_facts_are_found_between_other_fields() -> None:
    body = msgpack.packb(
        {"request": {"raw_body": b"\xff", "spec": {"APIID": "no"}}, "spec": SPEC, "hook_type": 2, "hook_name": "H"}
    )
    assert peek_map(body) == Peek(2, "H", "api", "org", "abc")


@pytest.mark.parametrize("value", [{}, {"hook_type": None, "hook_name": None, "spec": None}])
def test_absent_and_nil_fields_are_zero_and_empty(value: dict[str, Any]) -> None:
    assert peek_map(msgpack.packb(value)) == Peek(0, "", "", "", "")


def test_the_hook_type_may_be_the_enum_s_name() -> None:
    assert peek_map(msgpack.packb({"hook_type": "CustomKeyCheck"})).hook_type == 4


def test_of_equal_keys_the_last_counts_as_in_a_decoded_map() -> None:
    twice = b"\x82" + msgpack.packb("hook_name") + msgpack.packb("a") + msgpack.packb("hook_name") + msgpack.packb("b")
    assert peek_map(twice).hook_name == msgpack.unpackb(twice)["hook_name"] == "b"


@pytest.mark.parametrize(
    "value",
    [1, [], "x", {"hook_type": "Sideways"}, {"hook_type": 1.5}, {"hook_name": 5}, {"spec": []}, {"spec": {"APIID": 1}}],
)
def test_what_is_no_object_is_an_error(value: Any) -> None:
    with pytest.raises(PeekError):
        peek_map(msgpack.packb(value))


@pytest.mark.parametrize("body", [b"", b"\x81", b"\x81\xa1a", b"\xc1", b"\x81\xa9hook_name\xa1\xff", b"\x81\x90\x01"])
def test_broken_bytes_are_an_error(body: bytes) -> None:
    with pytest.raises(PeekError):
        peek_map(body)
