"""Objects and events that came as MessagePack maps: decoded for a hook, and encoded again for the answer.

A hook changes little of an object. What it left as it came is encoded from the record that it was decoded from, and
only what differs is read out of the message again: comparing two messages costs a small part of reading one.
"""

from typing import Any, Final, TypeVar

import msgpack
import msgspec
from google.protobuf.message import Message

from ipc.frame import Kind, Packed, pack_frame
from tyk.proto.coprocess_object_pb2 import Event, Object
from workers.mapping import FieldError, from_map, to_map
from workers.records import Record, filler, is_map, record_type

_MessageT = TypeVar("_MessageT", bound=Message)

_decode_object: Final = msgspec.msgpack.Decoder(record_type(Object.DESCRIPTOR)).decode
_decode_event: Final = msgspec.msgpack.Decoder(record_type(Event.DESCRIPTOR)).decode
_encode: Final = msgspec.msgpack.Encoder().encode
_fill_object: Final = filler(Object.DESCRIPTOR)
_fill_event: Final = filler(Event.DESCRIPTOR)


class PackedObject:
    """One object that came as a map.

    Raises FieldError, naming the path of the field, for an unknown name or a value of a wrong type, and ValueError
    where the bytes are not MessagePack.
    """

    __slots__ = ("_before", "_record", "message")

    def __init__(self, packed: bytes) -> None:
        message, before = Object(), Object()
        try:
            record = _decode_object(packed)
            _fill_object(message, record)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _reason(Object, packed, error) from error
        before.CopyFrom(message)
        self.message = message
        self._record: Record = record
        self._before = before

    def answer(self, after: Object) -> Packed:
        """The answer frame for what a hook made of the message; to be called once."""
        before, record = self._before, self._record
        if record.request is None or not _take_usual(before, after, record):
            _take_all(before, after, record)
        return pack_frame(Kind.OBJECT_MAP, None, _encode(record))


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
    return after == before


def _replace(old: Any, new: Any) -> dict[str, str]:
    """Make one map of a message like another; returns it."""
    if old:
        old.clear()
    entries = {}
    for key in new:
        entries[key] = old[key] = new[key]
    return entries


def _take_all(before: Object, after: Object, record: Record) -> None:
    """Put everything into the record but the messages that did not change."""
    for field in Object.DESCRIPTOR.fields:
        name = field.name
        value = getattr(after, name)
        if field.message_type is None:
            setattr(record, name, value or None)
        elif is_map(field):
            setattr(record, name, {key: value[key] for key in value} or None)
        elif not after.HasField(name):
            setattr(record, name, None)
        elif not before.HasField(name) or value != getattr(before, name):
            setattr(record, name, to_map(value))


def _reason(message_type: type[_MessageT], packed: bytes, error: Exception) -> Exception:
    """What is wrong with the map: msgspec knows it in its own words, `from_map` in ours, with the field's path."""
    try:
        from_map(message_type, msgpack.unpackb(packed, strict_map_key=False))
    except FieldError as reason:
        return reason
    except (TypeError, ValueError, msgpack.UnpackException) as reason:
        return ValueError(str(reason) or type(reason).__name__)
    return FieldError("", str(error))
