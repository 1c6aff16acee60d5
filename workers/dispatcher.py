"""From a request frame to something that can be run: decode, find the hook, hand out an `Invocation`."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgpack
from google.protobuf.message import DecodeError, Message

from ipc.frame import Kind, Status, pack_frame, unpack_frame
from tyk.errors import EventPayloadError
from tyk.event import TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Event, Object
from workers.errors import WorkerError
from workers.hook import Hook
from workers.invocation import ChainInvocation, EventInvocation, HookInvocation, Invocation
from workers.lookup import CHAIN_NAME, Lookup
from workers.manifest import HOOK_TYPES
from workers.mapping import FieldError, from_map, to_map
from workers.store import BundleStore

__all__ = ["Dispatcher", "Invocation"]

MAX_REMEMBERED_APIS: Final = 10_000
"""APIs whose bundle is remembered for their events; a gateway has hundreds."""

_MessageT = TypeVar("_MessageT", bound=Message)

_CHAINING: Final = frozenset(HOOK_TYPES.values())
_OBJECT: Final = int(Kind.OBJECT)
_HASH_KEY: Final = "bundle_hash"
_API_KEY: Final = "APIID"


class Dispatcher:
    """Prepares dispatches; safe to use from many threads."""

    def __init__(self, bundles: BundleStore) -> None:
        """Find hooks in `bundles`, which may load more of them at any dispatch."""
        self._lookup = Lookup(bundles)
        self._hooks: dict[tuple[str, str], Hook] = {}
        self._bundle_of_api: dict[str, str] = {}
        self._has_events = False
        bundles.on_change(self._forget)
        self._forget()

    def prepare(self, payload: bytes) -> Invocation:
        """Decode a request frame and find what it asks for.

        Raises WorkerError: INVALID for what cannot be decoded, NOT_FOUND for an unknown bundle or hook, HOOK_FAILED for
        one that could not be loaded.
        """
        try:
            kind, _, body = unpack_frame(payload)
        except ValueError as error:
            raise WorkerError(Status.INVALID, str(error)) from error
        if kind == _OBJECT:
            return self._object(_parsed(Object, body), _as_object)
        if kind == Kind.OBJECT_MAP:
            return self._object(_mapped(Object, body), _as_map)
        if kind == Kind.EVENT:
            return self._event(_parsed(Event, body), Kind.EVENT)
        if kind == Kind.EVENT_MAP:
            return self._event(_mapped(Event, body), Kind.EVENT_MAP)
        raise WorkerError(Status.INVALID, f"a frame of kind {kind!r} cannot be run")

    def _object(self, subject: Object, encode: Callable[[Object], bytes]) -> Invocation:
        spec = subject.spec
        bundle_hash = spec.get(_HASH_KEY, "")
        name = subject.hook_name
        if self._has_events:
            self._remember(spec.get(_API_KEY, ""), bundle_hash)
        hook = self._hooks.get((bundle_hash, name))
        if hook is None:
            if name == CHAIN_NAME:
                links = self._lookup.chain(bundle_hash, _chained_type(subject))
                return ChainInvocation(links, subject, encode)
            hook = self._lookup.hook(bundle_hash, name)
            self._hooks[bundle_hash, name] = hook
        return HookInvocation(hook, subject, encode)

    def _event(self, message: Event, kind: Kind) -> Invocation:
        try:
            event = TykEvent.from_json(message.payload)
        except EventPayloadError as error:
            raise WorkerError(Status.INVALID, str(error)) from error
        bundle_hash = self._bundle_of_api.get(str(event.spec.get(_API_KEY, "")))
        return EventInvocation(self._lookup.event_handler(event.handler_name, bundle_hash), event, kind)

    def _remember(self, api: str, bundle_hash: str) -> None:
        """Note which bundle an API uses: an event says its API only."""
        if len(self._bundle_of_api) >= MAX_REMEMBERED_APIS and api not in self._bundle_of_api:
            self._bundle_of_api.clear()
        self._bundle_of_api[api] = bundle_hash

    def _forget(self) -> None:
        """Something was loaded: a name may stand for another hook now, or for several."""
        self._hooks.clear()
        self._has_events = self._lookup.has_events


def _parsed(message_type: type[_MessageT], body: Any) -> _MessageT:
    try:
        return message_type.FromString(body)
    except (DecodeError, TypeError, ValueError) as error:
        name = message_type.DESCRIPTOR.full_name
        raise WorkerError(Status.INVALID, f"not a serialized {name}: {error}") from error


def _mapped(message_type: type[_MessageT], body: Any) -> _MessageT:
    try:
        return from_map(message_type, msgpack.unpackb(body, strict_map_key=False))
    except (FieldError, TypeError, ValueError, msgpack.UnpackException) as error:
        name = message_type.DESCRIPTOR.full_name
        raise WorkerError(Status.INVALID, f"not a {name}: {error}") from error


def _chained_type(subject: Object) -> str:
    """Return the name of the object's hook type. Raises WorkerError where it has none that chains."""
    number = subject.hook_type
    name = HookType.Name(number) if number in HookType.values() else str(number)
    if name not in _CHAINING:
        message = f"a whole chain ({CHAIN_NAME}) needs a hook type, and the object has {name}"
        raise WorkerError(Status.INVALID, message, {"hook": CHAIN_NAME})
    return name


def _as_object(subject: Object) -> bytes:
    return pack_frame(Kind.OBJECT, None, subject.SerializeToString())


def _as_map(subject: Object) -> bytes:
    return pack_frame(Kind.OBJECT_MAP, None, msgpack.packb(to_map(subject)))
