"""Decode what workers send on their control sockets, by the name of the message.

Each message is decoded into exactly the expected types: an arbitrary list of one byte or map of three would take 64 and
230 bytes in the broker. Every map in a list has required keys, and lists of texts are bounded, so a message takes at
most sixteen times its length.
"""

from typing import Annotated, Any, Final, TypedDict

import msgspec

from tykpy.ipc.channel.control import ControlMessage
from tykpy.ipc.description import (
    MAX_BUNDLE_NAME,
    MAX_FILE,
    MAX_KINDS,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_PATH,
    MAX_REPLACED,
    MAX_TIMEOUT,
    PIECE_HOOKS,
)
from tykpy.ipc.plugin_metrics import (
    MAX_BUCKETS,
    MAX_HELP,
    MAX_LABELS,
    MAX_NUMBERS,
    MAX_VALUE,
    PIECE_SERIES,
)
from tykpy.ipc.plugin_metrics import MAX_NAME as MAX_METRIC_NAME
from tykpy.telemetry.stacks import MAX_TEXT

_MAX_HASHES: Final = 8
"""Most hashes of one bundle, which has two. The router has an entry for each hook with each of them."""
_MAX_VERSION: Final = 64
"""Longest version of a bundle, in characters."""
_MAX_TYPES: Final = 8
"""Most hook types for which a hook is listed; there are five."""


_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
_BundleName = Annotated[str, msgspec.Meta(max_length=MAX_BUNDLE_NAME)]
_Path = Annotated[str, msgspec.Meta(max_length=MAX_PATH)]
_File = Annotated[str, msgspec.Meta(max_length=MAX_FILE)]
_Version = Annotated[str, msgspec.Meta(max_length=_MAX_VERSION)]
_Message = Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE)]
_MetricName = Annotated[str, msgspec.Meta(max_length=MAX_METRIC_NAME)]
_LabelValue = Annotated[str, msgspec.Meta(max_length=MAX_VALUE)]


class _Fault(TypedDict):
    message: _Message
    file: _File
    line: int


class _Hook(TypedDict):
    name: _Name
    hook_type: str | None
    shape: str
    is_async: bool
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT)] | None
    on_error: str
    idempotent: bool
    file: _File
    line: int
    listed: Annotated[list[str], msgspec.Meta(max_length=_MAX_TYPES)]
    disabled: bool


class _FaultyHook(_Fault):
    name: _Name
    hook_type: str | None


class _Bundle(TypedDict):
    name: _BundleName
    hashes: Annotated[list[str], msgspec.Meta(max_length=_MAX_HASHES)]
    path: _Path
    version: _Version
    saved_copy: _Message
    state: _Name
    error: _Fault | None
    hooks: Annotated[list[_Hook], msgspec.Meta(max_length=PIECE_HOOKS)]
    faulty: Annotated[list[_FaultyHook], msgspec.Meta(max_length=PIECE_HOOKS)]
    more: bool


class _Loading(TypedDict):
    path: _Path
    name: _BundleName
    version: _Version


class _Replaced(_Loading):
    names: Annotated[list[_Name], msgspec.Meta(max_length=MAX_REPLACED)]


class _LeftBehind(_Loading):
    kinds: Annotated[list[_Name], msgspec.Meta(max_length=MAX_KINDS)]


class _Gone(TypedDict):
    path: _Path


class _Failure(TypedDict):
    message: _Message


class _Stacks(TypedDict):
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class _Event(TypedDict):
    name: str
    id: str
    depth: Annotated[int, msgspec.Meta(ge=0)]
    document: str


class _LostEvents(TypedDict):
    count: Annotated[int, msgspec.Meta(ge=0)]


class _Metric(TypedDict):
    bundle: _BundleName
    kind: _MetricName
    name: _MetricName
    help: Annotated[str, msgspec.Meta(max_length=MAX_HELP)]
    labels: Annotated[tuple[_MetricName, ...], msgspec.Meta(max_length=MAX_LABELS)]
    buckets: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_BUCKETS)]
    aggregate: _MetricName
    series: Annotated[
        list[
            tuple[
                Annotated[tuple[_LabelValue, ...], msgspec.Meta(max_length=MAX_LABELS)],
                Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_NUMBERS)],
            ]
        ],
        msgspec.Meta(max_length=PIECE_SERIES),
    ]


class _DroppedMetrics(TypedDict):
    bundle: _BundleName
    reason: _MetricName
    count: Annotated[int, msgspec.Meta(ge=0)]


_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "loading": msgspec.msgpack.Decoder(_Loading),
    "bundle": msgspec.msgpack.Decoder(_Bundle),
    "replaced": msgspec.msgpack.Decoder(_Replaced),
    "left_behind": msgspec.msgpack.Decoder(_LeftBehind),
    "gone": msgspec.msgpack.Decoder(_Gone),
    "ready": msgspec.msgpack.Decoder(None),
    "pong": msgspec.msgpack.Decoder(None),
    "leads": msgspec.msgpack.Decoder(None),
    "stopping": msgspec.msgpack.Decoder(None),
    "failed": msgspec.msgpack.Decoder(_Failure),
    "stacks": msgspec.msgpack.Decoder(_Stacks),
    "event": msgspec.msgpack.Decoder(_Event),
    "events_lost": msgspec.msgpack.Decoder(_LostEvents),
    "metric": msgspec.msgpack.Decoder(_Metric),
    "metrics_dropped": msgspec.msgpack.Decoder(_DroppedMetrics),
}


def read_message(message: ControlMessage) -> Any:
    """Decode the body of a worker's message.

    Raises ValueError for an unknown name, and ControlCorruptError for a body that does not fit it.
    """
    decoder = _DECODERS.get(message.name)
    if decoder is None:
        raise ValueError(f"unknown message {message.name[:100]!r}")
    return message.read(decoder)
