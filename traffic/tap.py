"""Take calls from a running broker, redact them, and write them to a recording."""

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec
from google.protobuf.message import DecodeError
from hpack import HPACKError

from tyk.call import Metadata, read_metadata
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.codes import GrpcCode
from tykpy.broker.errors import RpcError
from tykpy.broker.observe.recorder import Batch, RecordedCall
from tykpy.client.rpc import RpcClient
from tykpy.ipc.frame import EVENT_KINDS, Kind
from tykpy.ipc.reads import CallReads, unpack_reads
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
            batch = read_batch(client)
            if batch is None:
                return "the broker ended the recording, because it was not read for too long"
            left = batch.dropped + _write(batch.calls, writer, redactor, max_size)
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


def unknown_hooks(client: RpcClient, names: Sequence[str]) -> list[str]:
    """Return those names that no bundle has now, as `HOOK` or `BUNDLE/HOOK`; they may come. Raises RpcError."""
    if not names:
        return []
    found = ((bundle["name"], hook["name"]) for bundle in client.call("hooks") for hook in bundle["hooks"])
    known = {known for bundle, hook in found for known in (hook, f"{bundle}/{hook}")}
    return [name for name in names if name not in known]


def read_batch(client: RpcClient) -> Batch | None:
    """Return what has ended since the last batch; None if the recording has ended. Raises RpcError."""
    batch = client.call("record_read", timeout=_READ_TIMEOUT)
    return None if batch is None else msgspec.convert(batch, Batch)


def _write(calls: Sequence[RecordedCall], writer: RecordingWriter, redactor: Redactor, max_size: int) -> int:
    """Write calls while there is room; return how many are left."""
    for number, call in enumerate(calls):
        if writer.size >= max_size:
            return len(calls) - number
        writer.call(redacted(call, redactor))
    return 0


@contextmanager
def started(runtime_dir: Path, sample: float, hooks: Sequence[str], rate: float = 0.0) -> Iterator[RpcClient]:
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
            client.call("record_start", {"sample": sample, "hooks": hooks, "rate": rate, "collect": _COLLECT})
        except RpcError as error:
            raise TrafficError(error.message) from error
        try:
            yield client
        except BaseException:
            with suppress(RpcError):
                client.call("record_stop")
            raise


def redacted(call: RecordedCall, redactor: Redactor) -> CallRecord:
    """Return a call as it may be written. What does not decode cannot be searched for secrets, and is left out."""
    request, answer, message = b"", b"", "tykpy record could not decode the call"
    metadata: dict[str, str] = {}
    reads = CallReads()
    with suppress(DecodeError, HPACKError, ValueError):
        metadata = _texts(read_metadata(call.metadata)) if call.metadata else {}
        reads = unpack_reads(call.reads) if call.reads else CallReads()
        request, answer, message = _redact(call, metadata, reads, redactor)
    return CallRecord(
        time=call.time_ns / _NS_PER_S,
        bundle=call.bundle,
        hook=call.hook,
        event=call.kind in EVENT_KINDS,
        request=request,
        answer=answer,
        code=GrpcCode(call.code).name,
        message=message,
        dispatch_us=call.dispatch_ns // _NS_PER_US,
        hook_us=None if call.hook_ns is None else call.hook_ns // _NS_PER_US,
        metadata=metadata if request else {},
        reads=reads if request else CallReads(),
    )


def _redact(
    call: RecordedCall, metadata: dict[str, str], reads: CallReads, redactor: Redactor
) -> tuple[bytes, bytes, str]:
    """Redact `metadata` and `reads` in place, and return request, answer and message redacted."""
    if call.kind in EVENT_KINDS:
        event = Event.FromString(call.request) if call.kind == Kind.EVENT else decode(Event, call.request)
        redactor.event(event, metadata=metadata, reads=reads)
        return event.SerializeToString(), b"", call.message
    sent, answered = _object(call.kind, call.request), _object(call.kind, call.answer)
    replace = redactor.objects(sent, answered, metadata=metadata, reads=reads)
    return sent.SerializeToString(), answered.SerializeToString() if call.answer else b"", replace(call.message)


def _texts(metadata: Metadata) -> dict[str, str]:
    """Return metadata as it was sent."""
    return {name: value if isinstance(value, str) else b64encode(value).decode() for name, value in metadata.items()}


def _object(kind: int, packed: bytes) -> Object:
    if kind == Kind.OBJECT or not packed:
        return Object.FromString(packed)
    return decode(Object, packed)
