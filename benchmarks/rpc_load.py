"""Drives the broker's MessagePack-RPC listener as h2load drives its gRPC: one connection, so many calls at a time.

Ids have a fixed width, so that all answers have one size and four bytes of an answer identify its call.
"""

import socket
import struct
import time
from pathlib import Path
from typing import Any, Final

import msgpack
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from benchmarks.h2load import Load, percentile
from benchmarks.objects import expected_answer, typical_post
from tykpy.bench.errors import BenchError

TIMEOUT_SECONDS: Final = 30.0
READ_SIZE: Final = 1024 * 1024

_REQUEST_HEAD: Final = b"\x94\x00\xce"
_REQUEST_TAIL: Final = b"\xa8dispatch\x91"
_ANSWER_HEAD: Final = b"\x94\x01\xce"
_ID: Final = struct.Struct(">I")
_FIRST_ID: Final = 1 << 16
"""The first that takes four bytes in the answer too: the broker encodes numbers as short as they can be."""
_ID_END: Final = len(_ANSWER_HEAD) + _ID.size
_NO_ERROR: Final = b"\xc0"


def run(path: Path, requests: int, streams: int) -> Load:
    """Make `requests` calls, `streams` at a time; the counterpart of `h2load.run`.

    Raises BenchError where an answer is an error or of another size, or the last one is not the right object.
    """
    client = _Client(path, requests, streams)
    cpu, start = time.process_time(), time.perf_counter()
    latencies = client.run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    ordered = sorted(latency / 1000 for latency in latencies[streams:])
    return Load(requests, requests / seconds, percentile(ordered, 50), percentile(ordered, 99), cpu / requests * 1e6)


class _Client:
    def __init__(self, path: Path, requests: int, streams: int) -> None:
        self._path = path
        self._requests = requests
        self._streams = min(streams, requests)
        self._object: bytes = msgpack.packb(as_map(typical_post()))
        self._expected = as_map(expected_answer())
        self._answer_size = _ID_END + len(_NO_ERROR) + len(msgpack.packb(self._expected))
        self._started: dict[int, int] = {}
        self._latencies: list[int] = []
        self._sent = 0

    def run(self) -> list[int]:
        """Latencies in ns, in the order in which the answers came."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(str(self._path))
            self._send(connection, self._streams)
            data = b""
            while len(self._latencies) < self._requests:
                data += connection.recv(READ_SIZE) or self._refuse(data, "the connection was closed")
                data = self._take(connection, data)
        return self._latencies

    def _send(self, connection: socket.socket, count: int) -> None:
        count = min(count, self._requests - self._sent)
        now = time.perf_counter_ns()
        calls: list[bytes] = []
        for call_id in range(_FIRST_ID + self._sent, _FIRST_ID + self._sent + count):
            self._started[call_id] = now
            calls += (_REQUEST_HEAD, _ID.pack(call_id), _REQUEST_TAIL, self._object)
        self._sent += count
        connection.sendall(b"".join(calls))

    def _take(self, connection: socket.socket, data: bytes) -> bytes:
        size, now = self._answer_size, time.perf_counter_ns()
        whole = len(data) // size * size
        for at in range(0, whole, size):
            self._check_head(data, at)
            (call_id,) = _ID.unpack_from(data, at + len(_ANSWER_HEAD))
            self._latencies.append(now - self._started.pop(call_id))
        if self._sent < self._requests:
            self._send(connection, whole // size)
        elif len(self._latencies) == self._requests:
            self._check(data[whole - size : whole])
        if len(data) - whole > _ID_END:  # an error is shorter than an answer: do not wait for the rest
            self._check_head(data, whole)
        return data[whole:]

    def _check_head(self, data: bytes, at: int) -> None:
        if data[at : at + len(_ANSWER_HEAD)] != _ANSWER_HEAD or data[at + _ID_END : at + _ID_END + 1] != _NO_ERROR:
            self._refuse(data[at:], "an answer is an error")

    def _check(self, answer: bytes) -> None:
        result = msgpack.unpackb(answer)[3]
        if result != self._expected:
            self._refuse(answer, "the answer is wrong")

    def _refuse(self, data: bytes, why: str) -> bytes:
        raise BenchError(f"MessagePack-RPC: {why}: {data[:500]!r}")


def as_map(message: Message) -> dict[str, Any]:
    """A message's set fields by name, as a MessagePack-RPC client has them."""
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    return [as_map(item) for item in value] if field.is_repeated else as_map(value)
