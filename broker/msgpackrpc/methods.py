"""The public methods of the MessagePack-RPC listener: the counterpart of the gRPC service, on the same router.

`dispatch(object[, options])` and `dispatch_event(event[, options])` take maps with the field names of the protobuf
messages; `options` may contain `timeout`, in seconds, and `metadata`, as in gRPC. The encoded maps go to a worker
unchanged, and so do its answers to the caller: the body of a `Dispatch` of kind OBJECT_MAP or EVENT_MAP is MessagePack
both ways.
"""

import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from tykpy.broker.errors import DispatchError
from tykpy.broker.grpc.wire import pack_fields
from tykpy.broker.msgpackrpc.server import Reply, RpcMethod, decoded
from tykpy.broker.msgpackrpc.wire import (
    EMPTY_MAP,
    EVENT_METHOD,
    is_map,
    is_one_value,
    unpack_values,
)
from tykpy.broker.router.dispatch import Dispatch, Dispatcher
from tykpy.ipc.frame import MAX_METADATA, Kind, Status

NS_PER_SECOND: Final = 1_000_000_000
MAX_TIMEOUT_SECONDS: Final = 86_400
_METADATA_NAME: Final = re.compile("[0-9a-z_.-]+")
_METADATA_TEXT: Final = (
    "metadata is a map: names of 0-9 a-z _ . -, values are strings, or binary where the name ends in -bin"
)


class _Options(NamedTuple):
    timeout_ns: int | None = None
    metadata: bytes | None = None
    """The caller's metadata, as a header block."""


_NO_OPTIONS: Final = _Options()


class RpcDispatch(Dispatch):
    """A dispatch that came as a MessagePack-RPC call."""

    protocol = "msgpack-rpc"

    __slots__ = ("_reply",)

    def __init__(self, kind: int, body: bytes, options: _Options, reply: Reply) -> None:
        super().__init__(kind, body, options.timeout_ns, options.metadata)
        self._reply = reply

    def answer(self, kind: int, body: Any) -> None:
        """Send the worker's encoded map; no body means the empty map (`EventReply` has no fields)."""
        packed = body or EMPTY_MAP
        # A worker runs foreign code: anything but one value would shift all later answers of the connection.
        if isinstance(packed, bytes) and is_one_value(packed):
            self._reply.answer_packed(packed)
        else:
            self._reply.fail(Status.INTERNAL, "the worker's answer is not one MessagePack value")

    def fail(self, error: DispatchError) -> None:
        """Send the error."""
        self._reply.fail(error.status, error.message)


def dispatch_methods(dispatcher: Dispatcher, hooks: Callable[[], object]) -> dict[str, RpcMethod]:
    """Return the table of methods for a gateway; `hooks()` describes the loaded hooks."""
    return {
        "dispatch": _entry(dispatcher, Kind.OBJECT_MAP, "object"),
        EVENT_METHOD: _entry(dispatcher, Kind.EVENT_MAP, "event"),
        "ping": decoded(lambda params, reply: reply.answer("pong")),
        "hooks": decoded(lambda params, reply: reply.answer(hooks())),
    }


def _entry(dispatcher: Dispatcher, kind: Kind, what: str) -> RpcMethod:
    expected = f"takes one map, the {what}, and optionally a map of options"

    def call(params: list[bytes], reply: Reply) -> None:
        if not 1 <= len(params) <= 2:
            raise DispatchError(Status.INVALID, f"{expected}; this call has {len(params)} params")
        body, *packed = params
        if not is_map(body):
            raise DispatchError(Status.INVALID, f"{expected}; the {what} is not a map")
        dispatch = RpcDispatch(kind, body, _read_options(packed), reply)
        reply.on_hang_up = partial(dispatcher.cancel, dispatch)
        dispatcher.dispatch(dispatch)

    return call


def _read_options(packed: list[bytes]) -> _Options:
    try:
        (options,) = unpack_values(packed) or [None]
    except ValueError as error:
        raise DispatchError(Status.INVALID, f"the options cannot be decoded: {error}") from error
    if options is None:
        return _NO_OPTIONS
    if not isinstance(options, dict) or options.keys() - {"timeout", "metadata"}:
        raise DispatchError(Status.INVALID, 'options are a map of "timeout" and "metadata"')
    return _Options(_timeout_ns(options.get("timeout")), _pack_metadata(options.get("metadata")))


def _timeout_ns(seconds: Any) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise DispatchError(Status.INVALID, f"timeout is a number of seconds up to {MAX_TIMEOUT_SECONDS}")
    return max(1, int(seconds * NS_PER_SECOND))


def _pack_metadata(metadata: Any) -> bytes | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or not all(_is_metadata(name, value) for name, value in metadata.items()):
        raise DispatchError(Status.INVALID, _METADATA_TEXT)
    fields = ((name.encode(), _wire_value(value)) for name, value in metadata.items())
    packed = pack_fields(*fields)
    if len(packed) > MAX_METADATA:
        text = f"metadata of {len(packed)} bytes is larger than the limit of {MAX_METADATA} bytes"
        raise DispatchError(Status.TOO_LARGE, text)
    return packed or None


def _is_metadata(name: Any, value: Any) -> bool:
    is_name = isinstance(name, str) and _METADATA_NAME.fullmatch(name) is not None
    return is_name and isinstance(value, bytes if name.endswith("-bin") else str)


def _wire_value(value: str | bytes) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else b64encode(value)
