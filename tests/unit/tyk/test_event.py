"""Events: JSON whose keys are attributes too."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tyk.errors import EventPayloadError
from tyk.event import AttributeDict, EventMessage, TykEvent

PAYLOAD = {
    "message": {
        "Type": "AuthFailure",
        "Meta": {"Path": "/a", "Key": "", "deep": [{"x": 1}]},
        "TimeStamp": "2026-01-02 15:04:05 +0000 UTC m=+12.3",
    },
    "handler_name": "my_handler",
    "spec": {"APIID": "1", "OrgID": "o"},
}


@pytest.fixture
def event() -> TykEvent:
    return TykEvent.from_json(json.dumps(PAYLOAD))


def test_attributes_and_keys_are_the_same(event: TykEvent) -> None:
    assert event.handler_name == event["handler_name"] == "my_handler"
    assert event.message.Type == event.message["Type"] == "AuthFailure"
    assert event.message.Meta.Path == event["message"]["Meta"]["Path"] == "/a"
    assert event.message.Meta.deep[0].x == 1
    assert event.spec.APIID == event.spec["APIID"] == "1"
    assert isinstance(event.message, EventMessage)


def test_event_is_a_mapping(event: TykEvent) -> None:
    assert event == PAYLOAD
    assert json.loads(json.dumps(event)) == PAYLOAD
    assert event.get("nothing") is None
    assert set(event.spec) == {"APIID", "OrgID"}


def test_bytes_are_read_too() -> None:
    assert TykEvent.from_json(json.dumps(PAYLOAD).encode()) == PAYLOAD


def test_attributes_can_be_set_and_deleted() -> None:
    values = AttributeDict()
    values.a = 1
    assert values == {"a": 1}
    del values.a
    assert values == {}
    with pytest.raises(AttributeError, match="no 'a' here; there is nothing"):
        del values.a


def test_missing_attribute_error_lists_keys(event: TykEvent) -> None:
    with pytest.raises(AttributeError, match="no 'Typo' here; there is Meta, TimeStamp, Type"):
        _ = event.message.Typo
    assert not hasattr(event, "typo")


@pytest.mark.parametrize("name", ["message", "spec"])
@pytest.mark.parametrize("value", ["absent", None])
def test_message_and_spec_may_be_missing(name: str, value: object) -> None:
    payload: dict[str, Any] = {key: value for key, value in PAYLOAD.items() if key != name}
    if value is None:
        payload[name] = value
    assert getattr(TykEvent.from_json(json.dumps(payload)), name) == {}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("", "is not JSON: Expecting value"),
        ("{", "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is a JSON object, not list"),
        ("null", "is a JSON object, not NoneType"),
        ("{}", 'has no "handler_name"'),
        ('{"handler_name": 1}', "not a string"),
        ('{"handler_name": "h", "message": "m"}', '"message" of the event payload is a JSON object, not str'),
        ('{"handler_name": "h", "spec": []}', '"spec" of the event payload is a JSON object, not list'),
    ],
)
def test_bad_payload_is_an_error(payload: str | bytes, said: str) -> None:
    with pytest.raises(EventPayloadError) as caught:
        TykEvent.from_json(payload)
    assert said in str(caught.value)


@given(st.text() | st.binary())
def test_no_payload_raises_anything_else(payload: str | bytes) -> None:
    with suppress(EventPayloadError):
        assert isinstance(TykEvent.from_json(payload).handler_name, str)
