"""Objects and events that came as MessagePack maps: decoded for a hook, and encoded again for the answer.

A hook touches little of an object. What a gateway sends with every call of one hook of one API is decoded once, the
request's message is filled only when somebody asks for it (workers/objects/lazy.py), and what a hook left as it came is
encoded from the record that it was decoded into: comparing two messages costs a small part of reading one.
"""

from functools import cache
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgpack
import msgspec
from google.protobuf.message import Message

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Event, Object
from tyk.request import TykCoProcessRequest
from tykpy.ipc.frame import Kind, Packed, pack_frame
from tykpy.workers.objects.lazy import UnreadRequest, do_once, one_turn
from tykpy.workers.objects.mapping import FieldError, from_map, to_map
from tykpy.workers.objects.records import ABSENT, Record, filler, is_map, record_type

_MessageT = TypeVar("_MessageT", bound=Message)

HASH_KEY: Final = "bundle_hash"
API_KEY: Final = "APIID"
"""Of `spec`: the hash of the bundle's name, the API's id."""

_MAX_KNOWN: Final = 1024
_MAX_KNOWN_BYTES: Final = 2048
"""Name and spec are remembered up to this size: a few MiB in all at most."""

_HEAD: Final = ("hook_type", "hook_name", "spec")
"""The fields that say what is called: the same from call to call."""
_REQUEST: Final = "request"
_OTHERS: Final = tuple(name for name in Object.DESCRIPTOR.fields_by_name if name not in (*_HEAD, _REQUEST))

_decode_object: Final = msgspec.msgpack.Decoder(record_type(Object.DESCRIPTOR, raw="spec")).decode
_decode_spec: Final = msgspec.msgpack.Decoder(dict[str, str] | None).decode
_decode_event: Final = msgspec.msgpack.Decoder(record_type(Event.DESCRIPTOR)).decode
_encode: Final = msgspec.msgpack.Encoder().encode
_fill_request: Final = filler(MiniRequestObject.DESCRIPTOR)
_fill_name: Final = filler(Object.DESCRIPTOR, _HEAD[:2])
_fill_others: Final = filler(Object.DESCRIPTOR, _OTHERS)
_fill_event: Final = filler(Event.DESCRIPTOR)
_FIELDS: Final[tuple[Any, ...]] = tuple(Object.DESCRIPTOR.fields)
_FIELDS_BUT_REQUEST: Final = tuple(field for field in _FIELDS if field.name != _REQUEST)
_others: Final = attrgetter(*_OTHERS)
_NO_OTHERS: Final = (None,) * len(_OTHERS)


_Values: TypeAlias = tuple[int | str | None, str | None, msgspec.Raw]


class Head(NamedTuple):
    """What is called, decoded."""

    key: tuple[str, str]
    """Hash of the bundle, name of the hook."""
    api: str
    """The API's id."""
    message: Object
    """These fields; nobody may change it."""
    values: _Values | None
    """The same as the answer has them, where that is not how they came."""


_heads: Final[dict[tuple[int | str | None, str | None, bytes], Head]] = {}


class PackedObject:
    """One object that came as a map.

    Raises FieldError, naming the path of the field, for an unknown name or a value of a wrong type, and ValueError
    where the bytes are not MessagePack.
    """

    __slots__ = ("_before", "_record", "_unfilled", "_unread", "head", "subject")

    def __init__(self, packed: bytes) -> None:
        try:
            record: Record = _decode_object(packed)
            head = _heads.get((record.hook_type, record.hook_name, bytes(record.spec))) or _new_head(record)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _reason(Object, packed, error) from error
        if head.values is not None:
            record.hook_type, record.hook_name, record.spec = head.values
        self._record = record
        self.head = head
        self._before = head.message
        self._unread = True
        self._unfilled = one_turn()
        self.subject = Object()
        """What the hook is to have, but for a request that nobody has asked for."""
        self.subject.CopyFrom(head.message)
        if _others(record) != _NO_OTHERS:
            _fill_others(self.subject, record)
            self._before = _copy(self.subject)
        if record.request is None:
            self._before = _copy(self.subject)
            self._unread = False

    @property
    def message(self) -> Object:
        """The whole object."""
        self._read()
        return self.subject

    def request(self) -> TykCoProcessRequest:
        """The request as a hook sees it; to be called once."""
        if self._unread:
            return UnreadRequest(self._record.request, self._read)
        return TykCoProcessRequest(self.subject.request)

    def answer(self, after: Object) -> Packed:
        """The answer frame for what a hook made of the subject, or for another object; to be called once."""
        record = self._record
        if self._unread and after is self.subject:
            # What a hook did without asking for the request has changed its record.
            if after != self._before:
                _take_all(self._before, after, record, _FIELDS_BUT_REQUEST)
            if not record.request.set_headers:
                record.request.set_headers = None
        else:
            self._read()
            before = self._before
            if record.request is None or not _take_usual(before, after, record):
                _take_all(before, after, record, _FIELDS)
        return pack_frame(Kind.OBJECT_MAP, None, _encode(record))

    def _read(self) -> MiniRequestObject:
        """Fill the request, once."""
        request = self.subject.request
        if self._unread:
            before = _copy(self._before)
            before.request.SetInParent()
            _fill_request(before.request, self._record.request)
            if do_once(self._unfilled, request.CopyFrom, before.request):
                self._before = before
                self._unread = False
        return request


def _new_head(record: Record) -> Head:
    key = record.hook_type, record.hook_name, bytes(record.spec)
    spec = (_decode_spec(record.spec) if key[2] else None) or {}
    packed = _encode(spec) if spec else b""
    message = Object()
    _fill_name(message, record)
    for name, value in spec.items():
        message.spec[name] = value
    same = key == (record.hook_type, record.hook_name, packed)
    values = None if same else (record.hook_type, record.hook_name, msgspec.Raw(packed) if packed else ABSENT)
    head = Head((spec.get(HASH_KEY, ""), message.hook_name), spec.get(API_KEY, ""), message, values)
    if len(key[2]) + len(message.hook_name) <= _MAX_KNOWN_BYTES:
        if len(_heads) >= _MAX_KNOWN:
            _heads.clear()
        _heads[key] = head
    return head


def _copy(message: Object) -> Object:
    copy = Object()
    copy.CopyFrom(message)
    return copy


def unpack_event(packed: bytes) -> Event:
    """An event that came as a map. Raises the same as PackedObject."""
    message = Event()
    try:
        _fill_event(message, _decode_event(packed))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _reason(Event, packed, error) from error
    return message


def _take_usual(before: Object, after: Object, record: Record) -> bool:
    """Take over what hooks are meant to change in a request, into record and copy; whether that was all there is."""
    old, new, kept = before.request, after.request, record.request
    if entries := new.set_headers:
        kept.set_headers = _replace(old.set_headers, entries)
    if after == before:
        return True
    if names := new.delete_headers:
        kept.delete_headers = old.delete_headers[:] = list(names)
    if entries := new.add_params:
        kept.add_params = _replace(old.add_params, entries)
    if names := new.delete_params:
        kept.delete_params = old.delete_params[:] = list(names)
    old.url, old.raw_body = new.url, new.raw_body
    kept.url, kept.raw_body = new.url or None, new.raw_body or None
    if new.HasField("return_overrides"):
        old.return_overrides.CopyFrom(new.return_overrides)
        old.return_overrides.SetInParent()
        kept.return_overrides = to_map(new.return_overrides)
    if after == before:
        return True
    # A chain changes these, for its next hook to see.
    kept.headers = _replace(old.headers, new.headers) or None
    kept.params = _replace(old.params, new.params) or None
    return after == before


def _replace(old: Any, new: Any) -> dict[str, str]:
    """Make one map of a message like another; returns it."""
    if old:
        old.clear()
    entries = {}
    for key in new:
        entries[key] = old[key] = new[key]
    return entries


def _take_all(before: Object, after: Object, record: Record, fields: tuple[Any, ...]) -> None:
    """Put these fields into the record, but for messages that did not change."""
    for field in fields:
        name = field.name
        value = getattr(after, name)
        if field.message_type is None:
            setattr(record, name, value or None)
        elif is_map(field):
            setattr(record, name, {key: value[key] for key in value} or None)
        elif not after.HasField(name):
            setattr(record, name, None)
        elif not before.HasField(name):
            setattr(record, name, to_map(value))
        elif value != (old := getattr(before, name)):
            setattr(record, name, _changed(getattr(record, name), old, value))
    if record.spec is None:
        record.spec = ABSENT


def _changed(record: Record, old: Message, new: Message) -> dict[str, Any]:
    """The map of a message, with what the record has of its largest parts, where these did not change.

    That is a session's access rights, which make it large and which few hooks change.
    """
    same = [name for name in _maps_of_messages(new.DESCRIPTOR) if _is_same(getattr(old, name), getattr(new, name))]
    changed = to_map(new, but=same)
    for name in same:
        if kept := getattr(record, name):
            changed[name] = kept
    return changed


@cache
def _maps_of_messages(descriptor: Any) -> tuple[str, ...]:
    maps = [field for field in descriptor.fields if is_map(field)]
    return tuple(field.name for field in maps if field.message_type.fields_by_name["value"].message_type is not None)


def _is_same(old: Any, new: Any) -> bool:
    """Compare two maps of messages; `==` would copy both."""
    return len(old) == len(new) and all(key in old and old[key] == new[key] for key in new)


def _reason(message_type: type[_MessageT], packed: bytes, error: Exception) -> Exception:
    """What is wrong with the map: msgspec knows it in its own words, `from_map` in ours, with the field's path."""
    try:
        from_map(message_type, msgpack.unpackb(packed, strict_map_key=False))
    except FieldError as reason:
        return reason
    except (TypeError, ValueError, msgpack.UnpackException) as reason:
        return ValueError(str(reason) or type(reason).__name__)
    return FieldError("", str(error))
