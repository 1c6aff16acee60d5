"""Secrets are gone from recorded calls, wherever they are."""

import json
import re

import pytest

from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.ipc.reads import CallReads, StoreRead
from tykpy.traffic.errors import RedactionError
from tykpy.traffic.redaction import DEFAULT, Redactor

SECRET = "s3cr3t-value"


def redacted(obj: Object, *rules: str) -> Object:
    Redactor(rules).objects(obj)
    return obj


def gone(obj: Object, secret: str = SECRET) -> bool:
    return secret.encode() not in obj.SerializeToString()


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize("spelled", [str.lower, str.upper, str.title])
def test_credentials_are_redacted_without_being_named(name: str, spelled: type[str]) -> None:
    obj = Object()
    obj.request.headers[spelled(name)] = SECRET
    obj.request.params[spelled(name)] = SECRET
    obj.request.url = f"/a?x=1&{spelled(name)}={SECRET}"
    obj.request.raw_body = json.dumps({"deep": [{spelled(name): SECRET}]}).encode()
    obj.response.headers[spelled(name)] = SECRET
    obj.response.multivalue_headers.add(key=spelled(name), values=[SECRET, "other-value"])
    obj.session.metadata[spelled(name)] = SECRET
    assert gone(redacted(obj))
    assert obj.request.url.startswith(f"/a?x=1&{spelled(name)}=redacted-")
    assert gone(obj, "other-value")


def test_what_is_no_secret_stays() -> None:
    obj = Object()
    obj.request.headers["Accept"] = "text/html"
    obj.request.url = "/a?q=a%20b&c"
    obj.request.raw_body = b'{"name": "ann",  "n": 1.50}'
    obj.request.body = '{"name": "ann",  "n": 1.50}'
    before = obj.SerializeToString(deterministic=True)
    assert redacted(obj).SerializeToString(deterministic=True) == before


def test_equal_secrets_have_equal_pseudonyms() -> None:
    first, second, other = Object(), Object(), Object()
    for obj, value in ((first, SECRET), (second, SECRET), (other, SECRET + "!")):
        obj.request.headers["Authorization"] = value
    redactor = Redactor()
    for obj in (first, second, other):
        redactor.objects(obj)
    names = [obj.request.headers["Authorization"] for obj in (first, second, other)]
    assert names[0] == names[1] != names[2]
    assert redacted(first, "x").request.headers["Authorization"] == names[0]  # it stays what it is
    again = Object()
    again.request.headers["Authorization"] = SECRET
    assert redacted(again).request.headers["Authorization"] != names[0]  # another recording, another key


def test_a_secret_is_found_where_a_hook_copied_it() -> None:
    sent, answered = Object(), Object()
    sent.request.headers["Authorization"] = f"Bearer {SECRET}"
    answered.CopyFrom(sent)
    answered.request.set_headers["X-Copy"] = f"token {SECRET} was seen"
    answered.request.raw_body = b"\xff" + SECRET.encode()
    answered.session.key_id = SECRET
    answered.session.access_rights["1"].api_name = SECRET
    answered.session.tags.append(SECRET)
    replace = Redactor().objects(sent, answered)
    assert gone(sent)
    assert gone(answered)
    assert SECRET not in replace(f"ValueError: {SECRET}")


def test_the_scheme_of_credentials_remains() -> None:
    obj = Object()
    obj.request.headers["Authorization"] = f"Bearer {SECRET}"
    obj.request.headers["X-Token"] = SECRET
    value = redacted(obj).request.headers["Authorization"]
    assert value.startswith("Bearer redacted-")
    assert value == f"Bearer {obj.request.headers['X-Token']}"
    assert redacted(obj).request.headers["Authorization"] == value


def test_secrets_of_sessions_are_redacted() -> None:
    obj = Object()
    session = obj.session
    session.basic_auth_data.password = session.basic_auth_data.hash = SECRET
    session.jwt_data.secret = session.hmac_secret = SECRET
    session.oauth_keys["client"] = SECRET
    assert gone(redacted(obj))


@pytest.mark.parametrize(
    ("path", "body", "after"),
    [
        ("$.user.pin", {"user": {"pin": "1234", "name": "x"}}, {"user": {"name": "x"}}),
        ("$.items[*].card", {"items": [{"card": "12"}, {"card": 34}, {"n": 1}]}, {"items": [{}, {}, {"n": 1}]}),
        ("$.items[1]", {"items": ["a", "b"]}, {"items": ["a", None]}),
        ("$.*.pin", {"a": {"pin": "1"}, "b": {"pin": "2"}}, {"a": {}, "b": {}}),
        ("$[0].pin", [{"pin": {"x": 1}}], [{}]),
        ("$.missing.pin", {"user": 1}, {"user": 1}),
    ],
)
def test_json_paths_name_places_in_bodies(path: str, body: object, after: object) -> None:
    def without(value: object) -> object:
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if not str(v).startswith("redacted-")}
        if isinstance(value, list):
            return [None if str(v).startswith("redacted-") else without(v) for v in value]
        return value

    obj = Object()
    obj.request.raw_body = json.dumps(body).encode()
    obj.response.raw_body = obj.request.raw_body
    obj.request.return_overrides.response_body = json.dumps(body)
    redacted(obj, path)
    for text in (obj.request.raw_body, obj.response.raw_body, obj.request.return_overrides.response_body):
        assert without(json.loads(text)) == after


@pytest.mark.parametrize("path", ["$", "$.", "$..pin", "$.a[", "$.a[x]", "$a"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(RedactionError, match=r"not a path|below the whole body"):
        Redactor([path])


def test_forms_are_searched() -> None:
    obj = Object()
    obj.request.headers["Content-Type"] = "application/x-www-form-urlencoded"
    obj.request.raw_body = f"user=ann&password={SECRET}&pin=98%2076".encode()
    redacted(obj, "pin")
    assert gone(obj)
    assert gone(obj, "98%2076")
    assert obj.request.raw_body.startswith(b"user=ann&password=redacted-")


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ('{ "pin" : "s3cret9",\n "n": 1.50 }', '{ "pin" : NAME,\n "n": 1.50 }'),
        ('{"pin": 1234, "other": 12345}', '{"pin": NAME, "other": 12345}'),
        ('[{"pin": "a\u00e9", "x":"\\u00e9"}]', '[{"pin": NAME, "x":"\\u00e9"}]'),
        ('{"pin": "\\u0073ecret", "n": 1}', '{"pin":NAME,"n":1}'),
        ('{"pin": "s3cret", "pin": "other"}', '{"pin":NAME}'),
        ('{"pin": "ann", "name": "ann"}', '{"pin":NAME,"name":"ann"}'),
    ],
)
def test_json_keeps_its_form_where_it_can(body: str, after: str) -> None:
    obj = Object()
    obj.request.raw_body = body.encode()
    found = redacted(obj, "pin").request.raw_body.decode()
    assert re.sub(r'"redacted-\w{12}"', "NAME", found) == after


def test_json_that_does_not_parse_is_left_out() -> None:
    obj = Object()
    obj.request.headers["Content-Type"] = "application/json"
    obj.request.raw_body = b'{"pin": "1234", '
    assert redacted(obj, "$.pin").request.raw_body == b"redacted-body"


def test_what_a_hook_read_is_redacted() -> None:
    sent = Object()
    sent.request.headers["Authorization"] = f"Bearer {SECRET}"
    values = {f"user:{SECRET}": b"ann", "Api-Key": b"stored", "json": b'{"token": "in-json"}', "raw": SECRET.encode()}
    reads = CallReads(store=[StoreRead(key, 0, value) for key, value in values.items()])
    reads.store.append(StoreRead(f"gone:{SECRET}", 1, None))
    metadata = {"cookie": "biscuit", "x-copy": SECRET, "x-trace": "t"}
    Redactor().objects(sent, metadata=metadata, reads=reads)
    name = sent.request.headers["Authorization"].split()[1]
    keys, found = [read.key for read in reads.store], [read.value for read in reads.store]
    assert keys == [f"user:{name}", "Api-Key", "json", "raw", f"gone:{name}"]
    assert (found[0], found[3], found[4]) == (b"ann", name.encode(), None)
    assert isinstance(found[1], bytes)
    assert found[1].startswith(b"redacted-")
    assert isinstance(found[2], bytes)
    assert found[2].startswith(b'{"token": "redacted-')
    assert metadata["cookie"].startswith("redacted-")
    assert (metadata["x-copy"], metadata["x-trace"]) == (name, "t")


def test_what_an_event_handler_read_is_redacted() -> None:
    event = Event(payload=json.dumps({"message": {"Meta": {"Key": SECRET}}, "handler_name": "h"}))
    reads = CallReads(store=[StoreRead(f"count:{SECRET}", 0, b"1")])
    Redactor().event(event, metadata={}, reads=reads)
    assert SECRET not in reads.store[0].key


def test_events_lose_the_request_and_the_key() -> None:
    event = Event()
    meta = {"Path": "/a", "Key": SECRET, "OriginatingRequest": SECRET, "token": SECRET}
    event.payload = json.dumps({"message": {"Type": "AuthFailure", "Meta": meta}, "handler_name": "h"})
    Redactor().event(event)
    assert SECRET not in event.payload
    assert json.loads(event.payload)["message"]["Meta"]["Path"] == "/a"
    event.payload = SECRET
    Redactor().event(event)
    assert SECRET not in event.payload
