"""What happened to one request: every hook with its changes, what the gateway did by itself, and the answer."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

from google.protobuf import json_format

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.devserver.hooks.contract import HookAnswer, Problem
from tykpy.devserver.hooks.masking import is_secret
from tykpy.devserver.messages import GatewayRequest, GatewayResponse
from tykpy.workers.dispatch.ignored_changes import Ignored
from tykpy.workers.objects.changes import Change, changes_of
from tykpy.workers.objects.go_urls import split_query

MIN_SECRET: Final = 8
"""Length of the shortest secret that is masked wherever it occurs, in characters."""
_METADATA: Final = "metadata["
_SESSION_METADATA: Final = "session.metadata["


@dataclass(slots=True)
class HookCall:
    """One call of a hook."""

    hook_type: str
    name: str
    sent: Object
    answer: HookAnswer
    ignored: tuple[Ignored, ...] = ()
    """Changes that the gateway does not apply."""

    @property
    def changes(self) -> list[Change]:
        """What the hook changed, field by field. The copy of the session's metadata is left out."""
        if self.answer.object is None:
            return []
        found = changes_of(self.sent, self.answer.object)
        in_session = {change.path for change in found if change.path.startswith(_SESSION_METADATA)}
        return [one for one in found if not (one.path.startswith(_METADATA) and f"session.{one.path}" in in_session)]

    def describe(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        answer = self.answer
        return {
            "kind": "hook",
            "hook_type": self.hook_type,
            "name": self.name,
            "seconds": answer.seconds,
            "before": _as_json(self.sent),
            "after": None if answer.object is None else _as_json(answer.object),
            "changes": [{"path": one.path, "before": one.before, "after": one.after} for one in self.changes],
            "printed": [asdict(line) for line in answer.printed],
            "triggered": [{"name": one.name, "payload": one.payload} for one in answer.triggered],
            "ignored": [asdict(one) for one in self.ignored],
            "problem": None if answer.problem is None else asdict(answer.problem),
        }


@dataclass(slots=True)
class Note:
    """Something that the gateway did by itself."""

    stage: str
    """`auth`, `limits`, `rewrite`, `cache`, `upstream` ..."""
    text: str
    seconds: float = 0.0

    def describe(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return {"kind": "note", **asdict(self)}


@dataclass(slots=True)
class HandlerCall:
    """One call of an event handler. Nobody waits for it: it may end after the answer."""

    event: str
    handler: str
    payload: str
    """The event as the handler got it, as JSON."""
    answer: HookAnswer

    def describe(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        problem = self.answer.problem
        return {
            "event": self.event,
            "handler": self.handler,
            "payload": self.payload,
            "seconds": self.answer.seconds,
            "printed": [asdict(line) for line in self.answer.printed],
            "problem": None if problem is None else asdict(problem),
        }


@dataclass(slots=True, eq=False)
class Trace:
    """One request from its arrival to its answer."""

    number: int
    request: GatewayRequest
    """As it arrived."""
    api_id: str = ""
    """Empty if no API has its path."""
    steps: list[HookCall | Note] = field(default_factory=list)
    """In the order in which they happened."""
    events: list[HandlerCall] = field(default_factory=list)
    sent: GatewayRequest | None = None
    """What the upstream received; None if it was not called."""
    received: GatewayResponse | None = None
    """What the upstream answered, before the response hooks."""
    response: GatewayResponse | None = None
    """What the client received; None if the gateway dropped the connection."""
    error: str = ""
    """The message of an answer that the gateway made of an error."""
    started: float = field(default_factory=time.time)
    """Seconds since 1970."""
    seconds: float = 0.0

    @property
    def hooks(self) -> list[HookCall]:
        """The calls of hooks."""
        return [step for step in self.steps if isinstance(step, HookCall)]

    @property
    def problem(self) -> Problem | None:
        """Why the last hook failed; None if it did not."""
        return self.hooks[-1].answer.problem if self.hooks else None

    @property
    def size(self) -> int:
        """The bytes of its bodies, objects and events."""
        bodies = (self.request, self.sent, self.received, self.response)
        objects = [part for call in self.hooks for part in (call.sent, call.answer.object) if part is not None]
        payloads = sum(len(event.payload) for event in self.events)
        return payloads + sum(len(one.body) for one in bodies if one is not None) + sum(map(Object.ByteSize, objects))

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values of headers and query parameters that look secret, and without their scheme (`Bearer`)."""
        messages = (self.request, self.sent, self.received, self.response)
        named = [pair for one in messages if one is not None for pair in one.headers.items()]
        query = parse_qs(split_query(self.request.url)[1])
        values = [value for name, values in (*named, *query.items()) if is_secret(name) for value in values]
        found = {part for value in values for part in (value, value.partition(" ")[2]) if len(part) >= MIN_SECRET}
        return tuple(sorted(found, key=len, reverse=True))

    def hook(self, name: str) -> HookCall:
        """Return the first call of a hook. Raises KeyError, naming those that were called."""
        for call in self.hooks:
            if call.name == name:
                return call
        raise KeyError(f"{name} was not called; called were: {', '.join(call.name for call in self.hooks) or 'none'}")

    def note(self, stage: str, text: str, seconds: float = 0.0) -> None:
        """Add what the gateway did by itself."""
        self.steps.append(Note(stage, text, seconds))

    def describe(self) -> dict[str, Any]:
        """Return it as JSON can carry it. Bodies are text; bytes that are not UTF-8 are escaped."""
        return {
            "number": self.number,
            "started": self.started,
            "seconds": self.seconds,
            "api_id": self.api_id,
            "request": _describe_request(self.request),
            "steps": [step.describe() for step in self.steps],
            "events": [event.describe() for event in self.events],
            "sent": None if self.sent is None else _describe_request(self.sent),
            "received": None if self.received is None else _describe_response(self.received),
            "response": None if self.response is None else _describe_response(self.response),
            "error": self.error,
        }


def readable(body: bytes) -> str:
    """Return a body as text."""
    return body.decode(errors="backslashreplace")


def _as_json(message: Object) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _describe_request(request: GatewayRequest) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": _escaped(request.url),
        "host": request.host,
        "headers": _pairs(request.headers.items()),
        "body": readable(request.body),
    }


def _describe_response(response: GatewayResponse) -> dict[str, Any]:
    return {
        "status": response.status,
        "headers": _pairs(response.headers.items()),
        "body": readable(response.body),
    }


def _pairs(headers: Iterable[tuple[str, list[str]]]) -> list[list[str]]:
    return [[_escaped(name), _escaped(value)] for name, values in headers for value in values]


def _escaped(text: str) -> str:
    """Escape halves of surrogate pairs, which JSON cannot carry as UTF-8."""
    return text.encode(errors="backslashreplace").decode()
