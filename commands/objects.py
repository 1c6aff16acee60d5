"""Objects as a gateway would send them, from what a person says on the command line."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from google.protobuf import json_format
from google.protobuf.message import Message

from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.commands.errors import CommandError

NOT_SET = -1
"""`return_overrides.response_code` of an object that arrives (Tyk: coprocess.go)."""
HASH_LENGTH = 32

M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class CallDescription:
    """One hook call. Pairs are (name, value)."""

    hook: str
    hook_type: str = "Pre"
    bundle: str = ""
    method: str = "GET"
    url: str = "/"
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    session: dict[str, Any] | None = None
    metadata: Sequence[tuple[str, str]] = ()
    spec: dict[str, str] = field(default_factory=dict)
    response_status: int = 200
    response_headers: Sequence[tuple[str, str]] = ()
    response_body: bytes = b""


def bundle_hash(name: str) -> str:
    """What the gateway says in `spec.bundle_hash`: the MD5 of the bundle's name; a hash stays as it is."""
    if len(name) == HASH_LENGTH and all(digit in "0123456789abcdef" for digit in name):
        return name
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def build_object(call: CallDescription) -> Object:
    """The `Object` a gateway would send for this call (reference: Tyk's gateway/coprocess.go).

    Raises CommandError where the description does not fit the messages.
    """
    obj = Object(hook_type=_hook_type(call.hook_type), hook_name=call.hook)
    _fill_request(obj, call)
    obj.spec.update({"OrgID": "", "APIID": "", "bundle_hash": bundle_hash(call.bundle)} | call.spec)
    if call.session is not None:
        _parse(call.session, obj.session, "the session")
    if call.metadata:
        obj.session.metadata.update(dict(call.metadata))
        obj.metadata.update(dict(call.metadata))
    if obj.hook_type == HookType.Response:
        _fill_response(obj, call)
    return obj


def read_object(path: Path) -> Object:
    """An `Object` from a JSON file with the protobuf messages' field names.

    Raises CommandError.
    """
    try:
        return _parse(json.loads(path.read_bytes()), Object(), str(path))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: {error}") from error


def build_event(handler: str, message: dict[str, Any], spec: dict[str, str]) -> Event:
    """The `Event` a gateway would send to a handler."""
    payload = {"message": message, "handler_name": handler, "spec": {"APIID": "", "OrgID": ""} | spec}
    return Event(payload=json.dumps(payload))


def _hook_type(name: str) -> HookType:
    try:
        return cast("HookType", HookType.Value(name))
    except ValueError:
        raise CommandError(f"unknown hook type {name!r}; known: {', '.join(HookType.keys()[1:])}") from None


def _fill_request(obj: Object, call: CallDescription) -> None:
    request = obj.request
    parts = urlsplit(call.url)
    request.url = call.url if not parts.netloc else parts._replace(scheme="", netloc="").geturl() or "/"
    request.request_uri = request.url
    request.method = call.method
    request.scheme = parts.scheme or "http"
    request.headers["Host"] = parts.netloc or "localhost"
    for name, value in call.headers:
        request.headers[name.title()] = value
    request.params.update(dict(reversed(parse_qsl(parts.query, keep_blank_values=True))))
    request.return_overrides.response_code = NOT_SET
    request.raw_body = call.body
    request.body = _text(call.body)


def _fill_response(obj: Object, call: CallDescription) -> None:
    response = obj.response
    response.status_code = call.response_status
    response.raw_body = call.response_body
    response.body = _text(call.response_body)
    values: dict[str, list[str]] = {}
    for name, value in call.response_headers:
        values.setdefault(name.title(), []).append(value)
    for name, all_values in values.items():
        response.headers[name] = all_values[0]
        response.multivalue_headers.add(key=name, values=all_values)


def _text(body: bytes) -> str:
    # As the gateway does: `body` is empty where the bytes are not UTF-8.
    try:
        return body.decode()
    except UnicodeDecodeError:
        return ""


def _parse(value: Any, message: M, what: str) -> M:
    try:
        return json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        raise CommandError(f"{what}: {error}") from error
