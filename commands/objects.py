"""Objects and events as a gateway sends them: build one, send it to a broker, and compare what comes back."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.config import MAX_MESSAGE
from tykpy.broker.errors import DialError
from tykpy.client.dialing import ClientTls
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.errors import CommandError
from tykpy.ipc.regular_file import read_at_most
from tykpy.workers.objects.changes import Change, changes_of

DISPATCH: Final = "/coprocess.Dispatcher/Dispatch"
DISPATCH_EVENT: Final = "/coprocess.Dispatcher/DispatchEvent"
NOT_SET: Final = -1
"""`return_overrides.response_code` of an object that arrives (Tyk: coprocess.go)."""
HASH_LENGTH: Final = 32

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """A hook's answer, and how long it took in seconds, as the caller saw it."""

    sent: Object
    received: Object
    seconds: float

    @property
    def changes(self) -> list[Change]:
        """What the hook changed."""
        return changes_of(self.sent, self.received)


def connect(address: str, tls: ClientTls) -> GrpcClient:
    """Return a client of the broker at an address.

    Raises CommandError if nobody listens, BrokerError for options that cannot be used and where TLS fails.
    """
    try:
        return GrpcClient(address, tls=tls)
    except DialError:
        raise
    except OSError as error:
        hint = "is --connect, or --runtime-dir, the broker's own?"
        raise CommandError(f"no broker answers at {address} ({reason(error)}); {hint}") from error


def reason(error: OSError) -> str:
    """Return an error's reason, without the address."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def call_hook(client: GrpcClient, obj: Object, timeout: float, metadata: Mapping[str, str] | None = None) -> Outcome:
    """Dispatch an object, with this gRPC metadata.

    Raises CommandError with the broker's status and message, or where nobody answers.
    """
    answer, seconds = _call(client, DISPATCH, obj, timeout, metadata)
    try:
        return Outcome(obj, Object.FromString(answer), seconds)
    except DecodeError as error:
        raise CommandError(str(error)) from error


def send_event(client: GrpcClient, event: Event, timeout: float) -> float:
    """Dispatch an event; return the seconds it took.

    Raises CommandError with the broker's status and message, or where nobody answers.
    """
    return _call(client, DISPATCH_EVENT, event, timeout)[1]


def _call(
    client: GrpcClient, path: str, message: Message, timeout: float, metadata: Mapping[str, str] | None = None
) -> tuple[bytes, float]:
    started = time.perf_counter()
    try:
        answer = client.call(path, message.SerializeToString(), timeout=timeout, metadata=metadata)
    except GrpcCallError as error:
        raise CommandError(f"{error.code}: {error.message}") from error
    except OSError as error:
        raise CommandError(str(error)) from error
    return answer, time.perf_counter() - started


def as_json(message: Message) -> str:
    """Return a whole message as JSON, with the protobuf field names."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=2)


def bundle_hash(name: str) -> str:
    """Return the `spec.bundle_hash` of a gateway: the MD5 of the bundle's name; a hash stays as it is."""
    if len(name) == HASH_LENGTH and all(digit in "0123456789abcdef" for digit in name):
        return name
    return hashlib.md5(os.fsencode(name), usedforsecurity=False).hexdigest()


def build_object(call: CallDescription) -> Object:
    """Build the `Object` that a gateway would send for this call (Tyk: gateway/coprocess.go).

    Raises CommandError if the description does not fit the messages.
    """
    try:
        return _build_object(call)
    except (ValueError, RecursionError) as error:
        # No UTF-8, no URL, or a number that is too large.
        raise CommandError(f"this call cannot be made: {error}") from error


def _build_object(call: CallDescription) -> Object:
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
    """Read an `Object` from a JSON file with the protobuf field names. Raises CommandError."""
    try:
        return _parse(json.loads(read_at_most(path, MAX_MESSAGE)), Object(), str(path))
    except (OSError, RecursionError, ValueError) as error:
        raise CommandError(f"{path}: {error}") from error


def build_event(handler: str, message: dict[str, Any], spec: dict[str, str]) -> Event:
    """Build the `Event` that a gateway would send to a handler."""
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
    """Return a body as text; empty where it is not UTF-8, as in a gateway's object."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return ""


def _parse(value: Any, message: M, what: str) -> M:
    try:
        return json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        raise CommandError(f"{what}: {error}") from error
