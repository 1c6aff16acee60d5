"""Decode a request frame, find its hook, and return an `Invocation` of it."""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from tyk.call import API_KEY, Origin
from tyk.errors import EventPayloadError
from tyk.event import TRIGGERED_KEY, TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.files.manifest import CHAIN_NAME, HOOK_TYPES
from tykpy.bundles.hook import Hook
from tykpy.bundles.registry import BundleStore
from tykpy.ipc.bodies.store import BorrowedBody
from tykpy.ipc.frame import EVENT_KINDS, Kind, Packed, Status, unpack_frame
from tykpy.workers.api_bundles import ApiBundles
from tykpy.workers.dispatch.invocation import Invocation, chain_invocation, event_invocation, hook_invocation
from tykpy.workers.dispatch.lookup import Lookup
from tykpy.workers.dispatch.trace import CallSpans
from tykpy.workers.objects.borrowed import BorrowedSubject
from tykpy.workers.objects.msgpack_codec import decode
from tykpy.workers.objects.subject import Subject, WholeSubject

HASH_KEY: Final = "bundle_hash"
"""Key of `spec`: the hash of the bundle's name."""
_CHAINING: Final = {int(HookType.Value(name)): name for name in HOOK_TYPES.values()}
"""Names of the hook types that chain, by number."""
_OBJECT: Final = int(Kind.OBJECT)
_OBJECTS: Final = (_OBJECT, int(Kind.OBJECT_MAP))
_parse_object: Final = Object.FromString


class HookDispatcher:
    """Prepares dispatches; safe to use from many threads."""

    def __init__(self, bundles: BundleStore, spans: CallSpans | None = None) -> None:
        """Find hooks in `bundles`, which are loaded; `spans`: None if nothing is traced."""
        self._lookup = Lookup(bundles)
        self._spans = spans
        self._hooks: dict[tuple[str, str], Hook] = {}
        self._apis = ApiBundles()
        self._has_events = self._lookup.has_events

    def prepare(
        self, payload: Packed, borrowed: BorrowedBody | None = None, deadline_ns: int = 0, attempt: int = 1
    ) -> Invocation:
        """Decode a request frame and find its hook; `borrowed` is the body of a frame that has none.

        Raises WorkerError: INVALID if the frame cannot be decoded, NOT_FOUND for an unknown bundle or hook, HOOK_FAILED
        if the bundle or hook cannot run.
        """
        try:
            kind, metadata, body, trace = unpack_frame(payload)
        except ValueError as error:
            raise WorkerError(Status.INVALID, str(error)) from error
        origin = metadata, deadline_ns, attempt, trace
        if trace is not None and self._spans is not None:
            self._spans.enter(trace)
        if kind in _OBJECTS:
            return self._object(_subject(kind, body, borrowed), origin)
        if borrowed is not None:
            body = borrowed.whole()
        if kind in EVENT_KINDS:
            return self._event(_event(kind, body).payload, Kind(kind), origin)
        raise WorkerError(Status.INVALID, f"a frame of kind {kind!r} cannot be run")

    def learn(self, bundle_hashes: Mapping[str, str]) -> None:
        """Remember which bundles APIs use, as the broker has seen."""
        self._apis.learn(bundle_hashes)

    def _object(self, subject: Subject, origin: Origin) -> Invocation:
        message = subject.message
        spec = message.spec
        key = spec.get(HASH_KEY, ""), message.hook_name
        hook = self._hooks.get(key) or self._look_up(key)
        if hook is not None:
            invocation = hook_invocation(hook, subject, origin)
        else:
            invocation = chain_invocation(self._lookup.chain(key[0], _chained_type(message)), subject, origin)
        if self._has_events:
            self._apis.remember(spec.get(API_KEY, ""), key[0])
        return invocation

    def _look_up(self, key: tuple[str, str]) -> Hook | None:
        """Return the hook of this bundle and name; None if the name stands for the whole chain."""
        bundle_hash, name = key
        if name == CHAIN_NAME:
            return None
        hook = self._hooks[key] = self._lookup.hook(bundle_hash, name)
        return hook

    def _event(self, payload: str, kind: Kind, origin: Origin) -> Invocation:
        try:
            event = TykEvent.from_json(payload)
        except EventPayloadError as error:
            raise WorkerError(Status.INVALID, str(error)) from error
        triggered = event.get(TRIGGERED_KEY)
        if isinstance(triggered, dict):
            handlers = self._lookup.triggered_handlers(event.handler_name, str(triggered.get("bundle")))
        else:
            bundle_hash = self._apis.find(str(event.spec.get(API_KEY, "")))
            handlers = [self._lookup.event_handler(event.handler_name, bundle_hash)]
        return event_invocation(handlers, event, payload, kind, origin)


def _subject(kind: int, body: Any, borrowed: BorrowedBody | None) -> Subject:
    try:
        if borrowed is not None:
            subject = BorrowedSubject.decode(borrowed) if kind == _OBJECT else None
            if subject is not None:
                return subject
            body = borrowed.whole()
        return WholeSubject(_parse_object(body) if kind == _OBJECT else decode(Object, body), kind)
    except (DecodeError, TypeError, ValueError) as error:
        raise _invalid(kind, "Object", error) from error


def _event(kind: int, body: Any) -> Event:
    try:
        return Event.FromString(body) if kind == Kind.EVENT else decode(Event, body)
    except (DecodeError, TypeError, ValueError) as error:
        raise _invalid(kind, "Event", error) from error


def _invalid(kind: int, name: str, error: Exception) -> WorkerError:
    what = f"a serialized coprocess.{name}" if kind in (Kind.OBJECT, Kind.EVENT) else f"a coprocess.{name}"
    return WorkerError(Status.INVALID, f"not {what}: {error}")


def _chained_type(subject: Object) -> str:
    """Return the name of the object's hook type. Raises WorkerError if hooks of this type do not chain."""
    number = subject.hook_type
    name = _CHAINING.get(number)
    if name is None:
        name = HookType.Name(number) if number in HookType.values() else str(number)
        message = f"a whole chain ({CHAIN_NAME}) needs a hook type, and the object has {name}"
        raise WorkerError(Status.INVALID, message, {"hook": CHAIN_NAME})
    return name
