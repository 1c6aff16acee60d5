"""The shapes of hooks: what each is called with, and what happens to what it returns.

Changes made in place count, as in the gateway's embedded driver, and so do new objects that are returned. A part that
is None leaves that part as it is. A hook of three or four arguments must return its tuple (there, too, None fails);
one of five may return nothing, because existing bundles do.
"""

from collections.abc import Awaitable, Mapping, MutableMapping
from typing import Any, Final, NoReturn, Protocol

from tyk.event import TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import ResponseObject
from tyk.proto.coprocess_session_state_pb2 import SessionState
from tyk.request import TykCoProcessRequest
from workers.unread import UnreadRequest

_RESPONSE: Final = int(HookType.Response)


class WrongReturnError(Exception):
    """A hook returned something else than its shape asks for; the message says both."""


class Shape(Protocol):
    """How to call a hook, and what to do with its result."""

    signature: str
    is_event: bool

    def arguments(self, subject: Any, request: TykCoProcessRequest | None = None) -> tuple[Any, ...]:
        """Return what the hook is called with; `request` is the subject's where it is not to be made here."""

    def settle(self, subject: Any, arguments: tuple[Any, ...], result: object) -> None:
        """Put what the hook returned into the object. Raises WrongReturnError."""


class RequestShape:
    """`(request, session, spec)`, returns `request, session`."""

    signature = "request, session, spec"
    returns = "request, session"
    is_event = False

    def arguments(self, subject: Object, request: TykCoProcessRequest | None = None) -> tuple[Any, ...]:
        """Return the request, its session (absent until somebody writes to it) and the spec."""
        if subject.metadata:
            _join_metadata(subject)
        return request or TykCoProcessRequest(subject.request), subject.session, subject.spec

    def settle(self, subject: Object, arguments: tuple[Any, ...], result: object) -> None:
        """Take over the request and the session."""
        if type(result) is not tuple or len(result) != 2:
            result = _unpacked(result, 2, self.returns)
        _take_request(subject, arguments[0], result[0])
        if result[1] is not arguments[1]:
            _take_session(subject, result[1])
        if subject.metadata:
            _copy_metadata(subject)


class MetadataShape:
    """`(request, session, metadata, spec)`, returns `request, session, metadata`."""

    signature = "request, session, metadata, spec"
    returns = "request, session, metadata"
    is_event = False

    def arguments(self, subject: Object, request: TykCoProcessRequest | None = None) -> tuple[Any, ...]:
        """Return the same as RequestShape, and the session's metadata."""
        if subject.metadata:
            _join_metadata(subject)
        session = subject.session
        return request or TykCoProcessRequest(subject.request), session, session.metadata, subject.spec

    def settle(self, subject: Object, arguments: tuple[Any, ...], result: object) -> None:
        """Take over the request, the session, and the metadata, which is merged into the session's."""
        if type(result) is not tuple or len(result) != 3:
            result = _unpacked(result, 3, self.returns)
        _take_request(subject, arguments[0], result[0])
        if result[1] is not arguments[1] or result[2] is not arguments[2]:
            metadata = _checked_metadata(result[2])  # a copy: another session empties the map it may be
            _take_session(subject, result[1])
            if metadata:
                subject.session.metadata.update(metadata)
        _copy_metadata(subject)


class ResponseShape:
    """`(request, response, session, metadata, spec)`, returns `response`, or nothing."""

    signature = "request, response, session, metadata, spec"
    returns = "response"
    is_event = False

    def arguments(self, subject: Object, request: TykCoProcessRequest | None = None) -> tuple[Any, ...]:
        """Return the request, the upstream's response, the session and its metadata, and the spec."""
        if subject.metadata:
            _join_metadata(subject)
        session = subject.session
        request = request or TykCoProcessRequest(subject.request)
        return request, subject.response, session, session.metadata, subject.spec

    def settle(self, subject: Object, arguments: tuple[Any, ...], result: object) -> None:
        """Take over the response."""
        _take_request(subject, arguments[0], None)
        if result is not None and result is not arguments[1]:
            if not isinstance(result, ResponseObject):
                _refuse(result, self.returns)
            subject.response.CopyFrom(result)
        if subject.metadata:
            _copy_metadata(subject)


class EventShape:
    """`(event, spec)`, returns nothing that counts."""

    signature = "event, spec"
    is_event = True

    def arguments(self, subject: TykEvent, request: TykCoProcessRequest | None = None) -> tuple[Any, ...]:
        """Return the event and the API it belongs to."""
        return subject, subject.spec

    def settle(self, subject: Any, arguments: tuple[Any, ...], result: object) -> None:
        """Ignore what an event handler returns, unless it is a coroutine that nobody runs."""
        if isinstance(result, Awaitable):
            _refuse(result, "nothing")


SHAPES: Final[Mapping[int, Shape]] = {2: EventShape(), 3: RequestShape(), 4: MetadataShape(), 5: ResponseShape()}
"""By the number of positional arguments."""


def complete(subject: Object) -> None:
    """Put in what a reply must have, even empty: without it the gateway's handler ends in a nil pointer."""
    subject.request.return_overrides.SetInParent()
    if subject.hook_type == _RESPONSE:
        subject.response.SetInParent()


def _join_metadata(subject: Object) -> None:
    """Show the hook what the gateway would see: the object's own metadata wins over the session's."""
    if subject.HasField("session"):
        _put(subject.metadata, subject.session.metadata)


def _copy_metadata(subject: Object) -> None:
    """Make the object's metadata the session's, or the gateway would put old values over what the hook changed."""
    if subject.HasField("session"):
        metadata = subject.metadata
        metadata.clear()
        _put(subject.session.metadata, metadata)


def _put(entries: Mapping[str, str], other: MutableMapping[str, str]) -> None:
    for key in entries:  # MergeFrom, which goes through items() in Python, takes 0.3 us more
        other[key] = entries[key]


def _take_request(subject: Object, given: TykCoProcessRequest, returned: object) -> None:
    """Take over the request; the subject has what a reply must have then, see `complete`."""
    if subject.hook_type == _RESPONSE:
        subject.response.SetInParent()
    if type(given) is UnreadRequest:
        if returned is given or returned is None:
            given.complete()  # what was done to it is in its record
            return
        given.read()
    request = subject.request
    if returned is given or returned is None:
        message = given.object
    elif isinstance(returned, TykCoProcessRequest):
        message = returned.object
    elif isinstance(returned, MiniRequestObject):
        message = returned
    else:
        _refuse(returned, "request")
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
            raise WrongReturnError(
                f"returned metadata[{key!r}] = {_named(value)}, but keys and values are strings (use json.dumps)"
            )
    return pairs


def _unpacked(result: Any, count: int, wanted: str) -> tuple[Any, ...]:
    """Accept any list or tuple of the right length, as unpacking does. Raises WrongReturnError."""
    if not isinstance(result, tuple | list) or len(result) != count:
        _refuse(result, wanted)
    return tuple(result)


def _refuse(returned: Any, wanted: str) -> NoReturn:
    if isinstance(returned, Awaitable):
        getattr(returned, "close", lambda: None)()
        raise WrongReturnError(f"returned {_named(returned)} and not {wanted}: write `async def` for the hook itself")
    what = f"{len(returned)} values" if isinstance(returned, tuple) else _named(returned)
    raise WrongReturnError(f"returned {what}; write `return {wanted}`")


def _named(value: object) -> str:
    return "nothing (None)" if value is None else f"a value of type {type(value).__name__}"
