"""Take calls from a running broker, redact them, and write them to a recording."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final

from google.protobuf.message import DecodeError

from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.codes import GrpcCode
from tykpy.broker.errors import RpcError
from tykpy.client.rpc import RpcClient
from tykpy.ipc.frame import EVENT_KINDS, Kind
from tykpy.traffic.errors import TrafficError
from tykpy.traffic.recording import CallRecord, RecordingWriter
from tykpy.traffic.redaction import Redactor
from tykpy.workers.objects.msgpack_codec import decode

_READ_TIMEOUT: Final = 10.0
"""Seconds; the broker answers after one, even if nothing has happened."""
_COLLECT: Final = 0.1
"""Seconds for which the broker collects calls before it answers: each answer costs it as much as some dispatches."""
_NS_PER_S: Final = 1e9
_NS_PER_US: Final = 1_000


def take(
    client: RpcClient,
    writer: RecordingWriter,
    redactor: Redactor,
    max_size: int,
    seconds: float,
    ended: Callable[[], bool] = lambda: False,
) -> str:
    """Write calls until a limit is reached, `ended` says so, or the broker ends; return why.

    `max_size`: of the file in bytes; `seconds`: 0 is without a limit. Calls that are not written any more are counted.

    The recording has been started, and is ended. Raises OSError where the disk refuses.
    """
    began = monotonic()
    try:
        while True:
            if ended():
                reason = "it was ended by hand"
                break
            if seconds and monotonic() - began >= seconds:
                reason = "the time of --for has passed"
                break
            batch = client.call("record_read", timeout=_READ_TIMEOUT)
            if batch is None:
                return "the broker ended the recording, because it was not read for too long"
            left = batch["dropped"] + _write(batch["calls"], writer, redactor, max_size)
            if left:
                writer.drop(left)
            if writer.size >= max_size:
                reason = "it has the size of --max"
                break
            writer.flush()
        if left := client.call("record_stop"):
            writer.drop(left)
    except RpcError:
        return "the broker ended"
    return reason


def _write(calls: list[list[Any]], writer: RecordingWriter, redactor: Redactor, max_size: int) -> int:
    """Write calls while there is room; return how many are left."""
    for number, call in enumerate(calls):
        if writer.size >= max_size:
            return len(calls) - number
        writer.call(redacted(call, redactor))
    return 0


@contextmanager
def started(runtime_dir: Path, sample: float, hooks: Sequence[str]) -> Iterator[RpcClient]:
    """Start a recording of the broker, for `take` to end; it also ends where the block raises. Raises TrafficError."""
    path = runtime_dir / "admin.sock"
    try:
        client = RpcClient(path)
    except RpcError as error:
        raise TrafficError(
            f"no broker answers at {path} ({error.message}); is --runtime-dir the broker's own?"
        ) from error
    with client:
        try:
            client.call("record_start", {"sample": sample, "hooks": hooks, "collect": _COLLECT})
        except RpcError as error:
            raise TrafficError(error.message) from error
        try:
            yield client
        except BaseException:
            with suppress(RpcError):
                client.call("record_stop")
            raise


def redacted(call: list[Any], redactor: Redactor) -> CallRecord:
    """Return a call as it may be written. What does not decode cannot be searched for secrets, and is left out."""
    time_ns, kind, bundle, hook, request, answer, code, message, dispatch_ns, hook_ns = call
    event = kind in EVENT_KINDS
    try:
        request, answer, message = _redact(kind, request, answer, message, redactor)
    except (DecodeError, ValueError):
        request, answer, message = b"", b"", "tykpy record could not decode the call"
    return CallRecord(
        time=time_ns / _NS_PER_S,
        bundle=bundle,
        hook=hook,
        event=event,
        request=request,
        answer=answer,
        code=GrpcCode(code).name,
        message=message,
        dispatch_us=dispatch_ns // _NS_PER_US,
        hook_us=None if hook_ns is None else hook_ns // _NS_PER_US,
    )


def _redact(kind: int, request: bytes, answer: bytes, message: str, redactor: Redactor) -> tuple[bytes, bytes, str]:
    if kind in EVENT_KINDS:
        event = Event.FromString(request) if kind == Kind.EVENT else decode(Event, request)
        redactor.event(event)
        return event.SerializeToString(), b"", message
    sent, answered = _object(kind, request), _object(kind, answer)
    replace = redactor.objects(sent, answered)
    return sent.SerializeToString(), answered.SerializeToString() if answer else b"", replace(message)


def _object(kind: int, packed: bytes) -> Object:
    if kind == Kind.OBJECT or not packed:
        return Object.FromString(packed)
    return decode(Object, packed)
