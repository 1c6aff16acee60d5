"""From a request frame to something that can be run: decode, find the hook, hand out an `Invocation`."""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from tyk.call import METADATA
from tyk.errors import EventPayloadError
from tyk.event import TRIGGERED_KEY, TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.files.manifest import CHAIN_NAME, HOOK_TYPES
from tykpy.bundles.hook import Hook
from tykpy.bundles.registry import BundleStore
from tykpy.ipc.bodies.store import LentBody
from tykpy.ipc.frame import Kind, Packed, Status, pack_frame, unpack_frame
from tykpy.workers.api_bundles import Announce, ApiBundles
from tykpy.workers.dispatch.invocation import (
    ChainInvocation,
    Encode,
    EventInvocation,
    HookInvocation,
    Invocation,
    TriggeredInvocation,
    UnreadInvocation,
)
from tykpy.workers.dispatch.lookup import Lookup
from tykpy.workers.objects.borrowed import LentObject
from tykpy.workers.objects.msgpack_object import API_KEY, HASH_KEY, PackedObject, unpack_event

__all__ = ["Dispatcher", "Invocation"]

_CHAINING: Final = {int(HookType.Value(name)): name for name in HOOK_TYPES.values()}
"""The names of the hook types that chain, by their numbers."""
_OBJECT: Final = int(Kind.OBJECT)
_OBJECT_MAP: Final = int(Kind.OBJECT_MAP)
_parse_object: Final = Object.FromString


class Dispatcher:
    """Prepares dispatches; safe to use from many threads."""

    def __init__(self, bundles: BundleStore, announce: Announce = lambda api, bundle_hash: None) -> None:
        """Find hooks in `bundles`, where everything is loaded; `announce` the bundle of each API."""
        self._lookup = Lookup(bundles)
        self._hooks: dict[tuple[str, str], Hook] = {}
        self._apis = ApiBundles(announce)
        self._has_events = self._lookup.has_events

    def prepare(self, payload: Packed, lent: LentBody | None = None) -> Invocation:
        """Decode a request frame and find what it asks for; `lent`: its body, where that is not in it.

        Raises WorkerError: INVALID for what cannot be decoded, NOT_FOUND for an unknown bundle or hook, HOOK_FAILED for
        one that could not be loaded.
        """
        try:
            kind, metadata, body = unpack_frame(payload)
        except ValueError as error:
            raise WorkerError(Status.INVALID, str(error)) from error
        if metadata is not None or METADATA.get() is not None:
            METADATA.set(metadata)
        if lent is not None:
            unread = _unread(lent) if kind == _OBJECT else None
            if unread is not None:
                return self._lent_object(unread)
            body = lent.whole()
        if kind == _OBJECT:
            try:
                subject = _parse_object(body)
            except (DecodeError, TypeError, ValueError) as error:
                raise WorkerError(Status.INVALID, f"not a serialized coprocess.Object: {error}") from error
            return self._object(subject)
        if kind == _OBJECT_MAP:
            try:
                packed = PackedObject(body)
            except (TypeError, ValueError) as error:
                raise WorkerError(Status.INVALID, f"not a coprocess.Object: {error}") from error
            return self._object_map(packed)
        if kind == Kind.EVENT:
            return self._event(_parsed_event(body), Kind.EVENT)
        if kind == Kind.EVENT_MAP:
            return self._event(_unpacked_event(body), Kind.EVENT_MAP)
        raise WorkerError(Status.INVALID, f"a frame of kind {kind!r} cannot be run")

    def learn(self, bundle_hashes: Mapping[str, str]) -> None:
        """Take over which bundles APIs use, as another worker saw."""
        self._apis.learn(bundle_hashes)

    def _object(self, subject: Object) -> Invocation:
        spec = subject.spec
        key = spec.get(HASH_KEY, ""), subject.hook_name
        hook = self._hooks.get(key) or self._look_up(key)
        if hook is None:
            return self._chain(subject, _as_object)
        if self._has_events:
            self._apis.remember(spec.get(API_KEY, ""), key[0])
        return HookInvocation(hook, subject, _as_object)

    def _lent_object(self, lent: LentObject) -> Invocation:
        spec = lent.subject.spec
        key = spec.get(HASH_KEY, ""), lent.subject.hook_name
        hook = self._hooks.get(key) or self._look_up(key)
        if hook is None:
            return self._chain(lent.message, _as_object)
        if self._has_events:
            self._apis.remember(spec.get(API_KEY, ""), key[0])
        return UnreadInvocation(hook, lent)

    def _object_map(self, packed: PackedObject) -> Invocation:
        head = packed.head
        hook = self._hooks.get(head.key) or self._look_up(head.key)
        if hook is None:
            return self._chain(packed.message, packed.answer)
        if self._has_events:
            self._apis.remember(head.api, head.key[0])
        return UnreadInvocation(hook, packed)

    def _look_up(self, key: tuple[str, str]) -> Hook | None:
        """The hook of this bundle and name; None where the name is the whole chain's."""
        bundle_hash, name = key
        if name == CHAIN_NAME:
            return None
        hook = self._hooks[key] = self._lookup.hook(bundle_hash, name)
        return hook

    def _chain(self, subject: Object, encode: Encode) -> Invocation:
        spec = subject.spec
        bundle_hash = spec.get(HASH_KEY, "")
        chain = self._lookup.chain(bundle_hash, _chained_type(subject))
        if self._has_events:
            self._apis.remember(spec.get(API_KEY, ""), bundle_hash)
        return ChainInvocation(chain, subject, encode)

    def _event(self, message: Event, kind: Kind) -> Invocation:
        try:
            event = TykEvent.from_json(message.payload)
        except EventPayloadError as error:
            raise WorkerError(Status.INVALID, str(error)) from error
        origin = event.get(TRIGGERED_KEY)
        if isinstance(origin, dict):
            handlers = self._lookup.triggered_handlers(event.handler_name, str(origin.get("bundle")))
            return TriggeredInvocation(handlers, message.payload, kind)
        bundle_hash = self._apis.find(str(event.spec.get(API_KEY, "")))
        return EventInvocation(self._lookup.event_handler(event.handler_name, bundle_hash), event, kind)


def _parsed_event(body: Any) -> Event:
    try:
        return Event.FromString(body)
    except (DecodeError, TypeError, ValueError) as error:
        raise WorkerError(Status.INVALID, f"not a serialized coprocess.Event: {error}") from error


def _unread(body: LentBody) -> LentObject | None:
    try:
        return LentObject.decode(body)
    except DecodeError as error:
        raise WorkerError(Status.INVALID, f"not a serialized coprocess.Object: {error}") from error


def _unpacked_event(body: Any) -> Event:
    try:
        return unpack_event(body)
    except (TypeError, ValueError) as error:
        raise WorkerError(Status.INVALID, f"not a coprocess.Event: {error}") from error


def _chained_type(subject: Object) -> str:
    """Return the name of the object's hook type. Raises WorkerError where it has none that chains."""
    number = subject.hook_type
    name = _CHAINING.get(number)
    if name is None:
        name = HookType.Name(number) if number in HookType.values() else str(number)
        message = f"a whole chain ({CHAIN_NAME}) needs a hook type, and the object has {name}"
        raise WorkerError(Status.INVALID, message, {"hook": CHAIN_NAME})
    return name


def _as_object(subject: Object) -> Packed:
    return pack_frame(_OBJECT, None, subject.SerializeToString())
