"""What a worker may say on its control socket, by the names of its messages.

Each is decoded into what it has to be and nothing else: a list of one byte or a map of three would take 64 and 230 in
the broker. Every map in a list has keys that it cannot do without, and lists of texts are bounded, so what a worker
says takes at most sixteen times its length.
"""

from typing import Annotated, Any, Final, TypedDict

import msgspec

from ipc.control import ControlMessage

_MAX_TIMEOUT: Final = 1e9
"""Seconds: thirty years."""
_MAX_HASHES: Final = 8
"""Of one bundle, which has two. The router has an entry for each hook with each of them."""
_MAX_TYPES: Final = 8
"""Of hooks; there are five."""
_MAX_NAME: Final = 1024
"""Characters of an API's id, and of its bundle's hash."""


class _Fault(TypedDict):
    message: str
    file: str
    line: int


class _Hook(TypedDict):
    name: str
    hook_type: str | None
    shape: str
    is_async: bool
    timeout: Annotated[float, msgspec.Meta(gt=0, le=_MAX_TIMEOUT)] | None
    on_error: str
    idempotent: bool
    file: str
    line: int
    listed: Annotated[list[str], msgspec.Meta(max_length=_MAX_TYPES)]
    disabled: bool


class _FaultyHook(_Fault):
    name: str
    hook_type: str | None


class _Bundle(TypedDict):
    name: str
    hashes: Annotated[list[str], msgspec.Meta(max_length=_MAX_HASHES)]
    path: str
    version: str
    state: str
    error: _Fault | None
    hooks: list[_Hook]
    faulty: list[_FaultyHook]


class _Description(TypedDict):
    bundles: list[_Bundle]


class _Failure(TypedDict):
    message: str


class _Event(TypedDict):
    name: str
    id: str
    depth: Annotated[int, msgspec.Meta(ge=0)]
    document: str


class _LostEvents(TypedDict):
    count: Annotated[int, msgspec.Meta(ge=0)]


class _Api(TypedDict):
    api: Annotated[str, msgspec.Meta(max_length=_MAX_NAME)]
    bundle_hash: Annotated[str, msgspec.Meta(max_length=_MAX_NAME)]


_DESCRIPTION: Final = msgspec.msgpack.Decoder(_Description)
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "ready": _DESCRIPTION,
    "hooks": _DESCRIPTION,
    "pong": msgspec.msgpack.Decoder(None),
    "failed": msgspec.msgpack.Decoder(_Failure),
    "event": msgspec.msgpack.Decoder(_Event),
    "events_lost": msgspec.msgpack.Decoder(_LostEvents),
    "api": msgspec.msgpack.Decoder(_Api),
}


def read_news(message: ControlMessage) -> Any:
    """The body of a worker's message.

    Raises ValueError for a name that means nothing, ControlCorruptError for a body that the name cannot have.
    """
    decoder = _DECODERS.get(message.name)
    if decoder is None:
        raise ValueError(f"unknown message {message.name[:100]!r}")
    return message.read(decoder)
