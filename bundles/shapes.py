"""The shapes of hooks: the arguments of each, and how its return value is applied.

Changes made in place count, as in the gateway's embedded driver (tyk/middleware.py, `process`), and so do returned
messages. Values that this driver ignores are ignored here too: anything but a response from a hook of five arguments,
and parts of a wrong type. Values that it cannot unpack are errors here too.
"""

from collections.abc import Awaitable, Mapping, MutableMapping
from itertools import islice
from typing import Any, Final, NoReturn, Protocol

from tyk.event import TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import ResponseObject
from tyk.proto.coprocess_session_state_pb2 import SessionState
from tyk.request import LazyRequest, TykCoProcessRequest
from tykpy.bundles.errors import WrongReturnError
from tykpy.bundles.plugin_errors import class_name, described
from tykpy.ipc.description import MAX_NAME
from tykpy.ipc.text import bounded
from tykpy.telemetry.records import counted

_RESPONSE: Final = int(HookType.Response)
_IGNORED: Final = ", which counts for nothing, as in the gateway's embedded Python: changes made in place count"


class IgnoredReturnError(Exception):
    """Part of a return value was ignored and the rest applied; the message says which part."""


class Shape(Protocol):
    """How to call a hook and apply its result."""

    signature: str
    is_event: bool

    def arguments(self, subject: Any, request: TykCoProcessRequest | None) -> tuple[Any, ...]:
        """Return the hook's arguments; `request` is None for an event."""

    def apply_result(self, subject: Any, arguments: tuple[Any, ...], result: object) -> None:
        """Apply the hook's result to the object. Raises WrongReturnError, or IgnoredReturnError when done."""


class RequestShape:
    """`(request, session, spec)`, returns `request, session`."""

    signature = "request, session, spec"
    returns = "request, session"
    is_event = False

    def arguments(self, subject: Object, request: TykCoProcessRequest | None) -> tuple[Any, ...]:
        """Return the request, its session (absent until the hook writes to it) and the spec."""
        if subject.metadata:
            _join_metadata(subject)
        return request, subject.session, subject.spec

    def apply_result(self, subject: Object, arguments: tuple[Any, ...], result: object) -> None:
        """Apply the request and the session."""
        if type(result) is not tuple or len(result) != 2:
            result = _unpacked(result, 2, self.returns)
        _take_request(subject, arguments[0], result[0])
        session = result[1]
        if session is not arguments[1] and isinstance(session, SessionState):
            _take_session(subject, session)
        if subject.metadata:
            _copy_metadata(subject)
        if result[0] is not arguments[0] or session is not arguments[1]:
            _check_parts(result, self.returns)


class MetadataShape:
    """`(request, session, metadata, spec)`, returns `request, session, metadata`."""

    signature = "request, session, metadata, spec"
    returns = "request, session, metadata"
    is_event = False

    def arguments(self, subject: Object, request: TykCoProcessRequest | None) -> tuple[Any, ...]:
        """Return the arguments of RequestShape and the session's metadata."""
        if subject.metadata:
            _join_metadata(subject)
        session = subject.session
        return request, session, session.metadata, subject.spec

    def apply_result(self, subject: Object, arguments: tuple[Any, ...], result: object) -> None:
        """Apply the request and the session, and merge the metadata into the session's."""
        if type(result) is not tuple or len(result) != 3:
            result = _unpacked(result, 3, self.returns)
        _take_request(subject, arguments[0], result[0])
        if result[1] is not arguments[1] or result[2] is not arguments[2]:
            metadata = _checked_metadata(result[2])  # a copy: it may be the map that a new session replaces
            _take_session(subject, result[1])
            if metadata:
                subject.session.metadata.update(metadata)
        _copy_metadata(subject)
        if result[0] is not arguments[0]:
            _check_parts(result[:1], self.returns)


class ResponseShape:
    """`(request, response, session, metadata, spec)`, returns `response`; anything else is ignored."""

    signature = "request, response, session, metadata, spec"
    returns = "response"
    is_event = False

    def arguments(self, subject: Object, request: TykCoProcessRequest | None) -> tuple[Any, ...]:
        """Return the request, the upstream's response, the session and its metadata, and the spec."""
        if subject.metadata:
            _join_metadata(subject)
        session = subject.session
        return request, subject.response, session, session.metadata, subject.spec

    def apply_result(self, subject: Object, arguments: tuple[Any, ...], result: object) -> None:
        """Apply the response."""
        _take_request(subject, arguments[0], None)
        if isinstance(result, ResponseObject) and result is not arguments[1]:
            subject.response.CopyFrom(result)
        if subject.metadata:
            _copy_metadata(subject)
        if result is not None and not isinstance(result, ResponseObject):
            if isinstance(result, Awaitable):
                _refuse(result, self.returns)
            raise IgnoredReturnError(f"returned {_named(result)}{_IGNORED}; write `return {self.returns}`")


class EventShape:
    """`(event, spec)`; the return value is ignored."""

    signature = "event, spec"
    is_event = True

    def arguments(self, subject: TykEvent, request: TykCoProcessRequest | None) -> tuple[Any, ...]:
        """Return the event and the API it belongs to."""
        return subject, subject.spec

    def apply_result(self, subject: Any, arguments: tuple[Any, ...], result: object) -> None:
        """Refuse a coroutine, which nobody would run, and ignore any other value."""
        if isinstance(result, Awaitable):
            _refuse(result, "nothing")


SHAPES: Final[Mapping[int, Shape]] = {2: EventShape(), 3: RequestShape(), 4: MetadataShape(), 5: ResponseShape()}
"""By the number of positional arguments."""


def complete_reply(subject: Object) -> None:
    """Add the messages that a reply must have, even empty: without them the gateway dereferences a nil pointer."""
    subject.request.return_overrides.SetInParent()
    if subject.hook_type == _RESPONSE:
        subject.response.SetInParent()


def _join_metadata(subject: Object) -> None:
    """Merge the object's metadata into the session's, over which it takes precedence in the gateway."""
    if subject.HasField("session"):
        _put(subject.metadata, subject.session.metadata)


def _copy_metadata(subject: Object) -> None:
    """Copy the session's metadata to the object's, or the gateway would replace the hook's changes by old values."""
    if subject.HasField("session"):
        metadata = subject.metadata
        metadata.clear()
        _put(subject.session.metadata, metadata)


def _put(entries: Mapping[str, str], other: MutableMapping[str, str]) -> None:
    for key in entries:  # MergeFrom, which goes through items() in Python, takes 0.3 us more
        other[key] = entries[key]


def _take_request(subject: Object, given: TykCoProcessRequest, returned: object) -> None:
    """Apply the request, and add what a reply must have (see `complete_reply`)."""
    if subject.hook_type == _RESPONSE:
        subject.response.SetInParent()
    if type(given) is LazyRequest and not given.is_loaded and (returned is given or returned is None):
        return  # its changes are applied later, by the owner of its source
    message = given.object
    if returned is not given:
        if isinstance(returned, TykCoProcessRequest):
            message = returned.object
        elif isinstance(returned, MiniRequestObject):
            message = returned
    request = subject.request
    if message is not request:
        if not isinstance(message, MiniRequestObject):
            _refuse(message, "request.object")
        request.CopyFrom(message)
    if not request.HasField("return_overrides"):
        request.return_overrides.SetInParent()


def _take_session(subject: Object, returned: object) -> None:
    if returned is None or returned is subject.session:
        return
    if not isinstance(returned, SessionState):
        _refuse(returned, "session")
    subject.session.CopyFrom(returned)
    subject.session.SetInParent()


def _checked_metadata(metadata: object) -> dict[str, str]:
    if metadata is None:
        return {}
    try:
        pairs: dict[Any, Any] = dict(metadata)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        _refuse(metadata, "metadata")
    for key, value in pairs.items():
        if not isinstance(key, str) or not isinstance(value, str):
            name = bounded(repr(key), MAX_NAME)
            raise WrongReturnError(
                f"returned metadata[{name}] = {_named(value)}, but keys and values are strings (use json.dumps)"
            )
    return pairs


def _check_parts(parts: tuple[Any, ...], wanted: str) -> None:
    """Raise IgnoredReturnError if a part is neither None nor of its type."""
    places = (("request", TykCoProcessRequest | MiniRequestObject), ("session", SessionState))
    for part, (name, expected) in zip(parts, places, strict=False):
        if part is not None and not isinstance(part, expected):
            raise IgnoredReturnError(f"returned {_named(part)} as its {name}{_IGNORED}; write `return {wanted}`")


def _unpacked(result: Any, count: int, wanted: str) -> tuple[Any, ...]:
    """Return anything that unpacks into `count` values as a tuple. Raises WrongReturnError."""
    try:
        values = tuple(islice(iter(result), count + 1))
    except TypeError:
        _refuse(result, wanted)
    except Exception as error:
        raise WrongReturnError(f"returned {_named(result)}, which raised {described(error)}") from error
    if len(values) != count:
        _refuse(result if isinstance(result, tuple | list) else values, wanted)
    return values


def _refuse(returned: Any, wanted: str) -> NoReturn:
    if isinstance(returned, Awaitable):
        getattr(returned, "close", lambda: None)()
        raise WrongReturnError(f"returned {_named(returned)} and not {wanted}: write `async def` for the hook itself")
    raise WrongReturnError(f"returned {_named(returned)}; write `return {wanted}`")


def _named(value: object) -> str:
    if isinstance(value, tuple | list):
        return counted(len(value), "value")
    return "nothing (None)" if value is None else f"a value of type {class_name(value)}"
