"""The public methods of the MessagePack-RPC listener: the counterpart of the gRPC service, on the same router.

`dispatch(object[, options])` and `dispatch_event(event[, options])` take maps with the field names of the protobuf
messages; `options` may contain `timeout`, in seconds, and `metadata`, as in gRPC. The encoded maps go to a worker
unchanged, and so do its answers to the caller: the body of a `Dispatch` of kind OBJECT_MAP or EVENT_MAP is MessagePack
both ways.
"""

from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

import msgspec

from tykpy.broker.errors import DispatchError
from tykpy.broker.grpc.wire import pack_fields
from tykpy.broker.msgpackrpc.server import Reply, RpcMethod, decoded
from tykpy.broker.msgpackrpc.wire import EMPTY_MAP, EVENT_METHOD, MAX_DECODED, is_map, is_one_value
from tykpy.broker.router.dispatch import Dispatch, Dispatcher
from tykpy.ipc.frame import MAX_METADATA, Kind, Status
from tykpy.ipc.text import wrong_field
from tykpy.telemetry.records import counted

NS_PER_SECOND: Final = 1_000_000_000
MAX_TIMEOUT_SECONDS: Final = 86_400
_EXPECTED: Final = (
    f'options are a map of "timeout", a number of seconds up to {MAX_TIMEOUT_SECONDS}, and "metadata", a map: names of'
    " 0-9 a-z _ . -, values are strings, or binary where the name ends in -bin"
)


class _Options(msgspec.Struct, forbid_unknown_fields=True):
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_SECONDS)] | None = None
    metadata: dict[Annotated[str, msgspec.Meta(pattern=r"^[0-9a-z_.-]+\Z")], Any] | None = None


_decode_options: Final = msgspec.msgpack.Decoder(_Options | None).decode


class RpcDispatch(Dispatch):
    """A dispatch that came as a MessagePack-RPC call."""

    protocol = "msgpack-rpc"

    __slots__ = ("_reply",)

    def __init__(self, kind: int, body: bytes, options: _Options, reply: Reply) -> None:
        timeout_ns = max(1, int(options.timeout * NS_PER_SECOND)) if options.timeout is not None else None
        super().__init__(kind, body, timeout_ns, _pack_metadata(options.metadata or {}))
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
            raise DispatchError(Status.INVALID, f"{expected}; this call has {counted(len(params), 'param')}")
        body, *packed = params
        if not is_map(body):
            raise DispatchError(Status.INVALID, f"{expected}; the {what} is not a map")
        dispatch = RpcDispatch(kind, body, _read_options(*packed), reply)
        reply.on_hang_up = partial(dispatcher.cancel, dispatch)
        dispatcher.dispatch(dispatch)

    return call


def _read_options(packed: bytes = b"\xc0") -> _Options:
    if len(packed) > MAX_DECODED:
        raise DispatchError(Status.INVALID, f"options of {len(packed)} bytes, the limit is {MAX_DECODED} bytes")
    try:
        return _decode_options(packed) or _Options()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DispatchError(Status.INVALID, f"{_EXPECTED}; {wrong_field(error, 'these')}") from error


def _pack_metadata(metadata: dict[str, Any]) -> bytes | None:
    """Encode the caller's metadata as a header block."""
    if not all(isinstance(value, bytes if name.endswith("-bin") else str) for name, value in metadata.items()):
        raise DispatchError(Status.INVALID, _EXPECTED)
    packed = pack_fields(*((name.encode(), _wire_value(value)) for name, value in metadata.items()))
    if len(packed) > MAX_METADATA:
        text = f"metadata of {len(packed)} bytes is larger than the limit of {MAX_METADATA} bytes"
        raise DispatchError(Status.TOO_LARGE, text)
    return packed or None


def _wire_value(value: str | bytes) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else b64encode(value)
