"""Recorded calls for people: as one line, and as JSON."""

from typing import Any

import msgspec
from google.protobuf import json_format

from tyk.event import TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.traffic.recording import CallRecord


def request_line(call: CallRecord) -> str:
    """Return what a call is about: `Pre GET /orders`, or `Event AuthFailure`."""
    if call.event:
        try:
            return f"Event {TykEvent.from_json(Event.FromString(call.request).payload).message.get('Type', '')}"
        except ValueError:
            return "Event"
    obj = Object.FromString(call.request)
    return f"{_type_of(obj)} {obj.request.method} {obj.request.url}"


def as_map(call: CallRecord) -> dict[str, Any]:
    """Return a call as JSON can encode it, with the protobuf field names."""
    request = Event.FromString(call.request) if call.event else Object.FromString(call.request)
    return {
        "time": call.time,
        "bundle": call.bundle,
        "hook": call.hook,
        "code": call.code,
        "message": call.message,
        "dispatch_us": call.dispatch_us,
        "hook_us": call.hook_us,
        "request": json_format.MessageToDict(request, preserving_proto_field_name=True),
        "answer": json_format.MessageToDict(Object.FromString(call.answer), preserving_proto_field_name=True)
        if call.answer
        else None,
        "metadata": call.metadata,
        "reads": msgspec.to_builtins(call.reads),
    }


def _type_of(obj: Object) -> str:
    try:
        return HookType.Name(obj.hook_type)
    except ValueError:
        return str(obj.hook_type)
