"""The file of a recording; docs/recordings.md describes it for other programs.

It begins with `MAGIC`. Then come records: a length of four bytes (big endian), and a MessagePack map of that many bytes
whose `type` says what it is. A file that was cut off loses its last record at most, and reading it says so.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from google.protobuf.message import DecodeError

from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.ipc.reads import CallReads
from tykpy.traffic.errors import RecordingError

MAGIC: Final = b"tykpy recording\n"
VERSION: Final = 1
MAX_RECORD: Final = 64 * 1024 * 1024
"""Largest record in bytes; a longer one is garbage."""
_LENGTH: Final = struct.Struct(">I")


class RecordingHeader(msgspec.Struct, frozen=True, tag_field="type", tag="header"):
    """The first record."""

    version: int
    """Of the format; readers refuse a newer one."""
    program: str
    """The version of tykpy that wrote it."""
    started: float
    """Seconds since the epoch."""
    sample: float
    """The share of dispatches that was recorded."""
    hooks: tuple[str, ...]
    """The hooks that were recorded; empty: all."""
    redacted: tuple[str, ...]
    """Names of headers and JSON paths whose values were replaced."""


class CallRecord(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="call"):
    """A dispatch that has ended."""

    time: float
    """When it ended, in seconds since the epoch."""
    bundle: str
    hook: str
    event: bool
    """Whether `request` is a `coprocess.Event`, and not a `coprocess.Object`."""
    request: bytes
    """The message that the gateway sent, serialized."""
    answer: bytes
    """The `coprocess.Object` that was answered, serialized; empty for an event and where the call failed."""
    code: str
    """A gRPC status, e.g. `OK`."""
    message: str
    """Why it failed."""
    dispatch_us: int
    """Microseconds from taking the dispatch to its end."""
    hook_us: int | None
    """Microseconds that the hook ran; None: it was not run."""
    metadata: dict[str, str] = {}
    """gRPC metadata by name in lower case; base64 where the name ends in `-bin`."""
    reads: CallReads = msgspec.field(default_factory=CallReads)
    """What the hook read through `tyk`."""


class Dropped(msgspec.Struct, frozen=True, tag_field="type", tag="dropped"):
    """Calls that are missing from here on, because the broker could not hand them over in time."""

    calls: int


class End(msgspec.Struct, frozen=True, tag_field="type", tag="end"):
    """The last record of a recording that ended by itself."""

    calls: int
    dropped: int
    reason: str


Record = RecordingHeader | CallRecord | Dropped | End
_decode: Final = msgspec.msgpack.Decoder(Record)
_encode: Final = msgspec.msgpack.Encoder()


class RecordingWriter:
    """Writes a recording. Raises OSError where the disk refuses."""

    def __init__(self, file: BinaryIO, header: RecordingHeader) -> None:
        self._file = file
        self.size = file.write(MAGIC)
        """Bytes written so far."""
        self.calls = 0
        self.dropped = 0
        self._write(header)

    def call(self, call: CallRecord) -> None:
        """Add a call."""
        self.calls += 1
        self._write(call)

    def drop(self, calls: int) -> None:
        """Note that calls are missing here."""
        self.dropped += calls
        self._write(Dropped(calls))

    def end(self, reason: str) -> None:
        """Write the last record."""
        self._write(End(self.calls, self.dropped, reason))
        self._file.flush()

    def flush(self) -> None:
        """Hand everything written to the kernel."""
        self._file.flush()

    def _write(self, record: Record) -> None:
        packed = _encode.encode(record)
        self.size += self._file.write(_LENGTH.pack(len(packed)) + packed)


class Recording:
    """A recording that is read: its header at once, the rest one by one."""

    def __init__(self, path: Path) -> None:
        """Raises RecordingError if the file cannot be read or is no recording."""
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}") from error
        try:
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise
        self.end: End | None = None
        """The last record, once it has been read; None: the recording was cut off."""
        self.dropped = 0
        """Calls that are missing, as far as read."""

    def _read_header(self) -> RecordingHeader:
        path = self.path
        if self._file.read(len(MAGIC)) != MAGIC:
            raise RecordingError(
                f"{path}: not a recording of tykpy record (it does not begin with {MAGIC.decode().rstrip()!r})"
            )
        header = self._next()
        if not isinstance(header, RecordingHeader):
            raise RecordingError(f"{path}: the header is missing or cut off")
        if header.version > VERSION:
            raise RecordingError(
                f"{path}: format {header.version} of tykpy {header.program}; this tykpy reads up to format {VERSION}"
            )
        return header

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def calls(self) -> Iterator[CallRecord]:
        """Yield the rest of the calls. Raises RecordingError where the file is damaged."""
        while (record := self._next()) is not None:
            if isinstance(record, CallRecord):
                yield record
            elif isinstance(record, Dropped):
                self.dropped += record.calls
            elif isinstance(record, End):
                self.end = record

    def _next(self) -> Record | None:
        """Return the next record; None at the end, and where the last record was cut off."""
        at = self._file.tell()
        length = self._file.read(_LENGTH.size)
        if len(length) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack(length)
        if size > MAX_RECORD:
            raise RecordingError(f"{self.path}: damaged at byte {at}: a record of {size} bytes")
        packed = self._file.read(size)
        if len(packed) < size:
            return None
        try:
            record = _decode.decode(packed)
            if isinstance(record, CallRecord):
                _check(record)
        except (msgspec.MsgspecError, DecodeError) as error:
            raise RecordingError(f"{self.path}: damaged at byte {at}: {error}") from error
        return record


def _check(call: CallRecord) -> None:
    """Raise DecodeError if a call's messages cannot be read."""
    if call.event:
        Event.FromString(call.request)
    else:
        Object.FromString(call.request)
        Object.FromString(call.answer)


def create(path: Path) -> BinaryIO:
    """Create the file, which only its owner may read. Raises RecordingError, also if it exists."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError:
        raise RecordingError(f"{path} exists; choose another name, or remove it") from None
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
