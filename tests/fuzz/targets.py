"""The targets of the fuzzers: each function takes any bytes as one kind of input, and must neither raise nor hang.

An error that the code promises for wrong input is swallowed here; everything else is a finding.
"""

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from tests.fuzz import big_messages
from tests.support.peers.http2_peer import PATH, Peer
from tests.unit.ipc.channel.ends import rings, whole
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.arriving import Arriving
from tykpy.broker.errors import DispatchError, WireError
from tykpy.broker.grpc.head import GrpcHeadReader, Method
from tykpy.broker.grpc.messages import GrpcMessageReader
from tykpy.broker.grpc.wire import GrpcCallError
from tykpy.broker.http2.errors import Http2Error
from tykpy.broker.http2.hpack.head_cache import HeadCache, HeaderDecoder
from tykpy.broker.http2.limits import KIB, MIB, Limits
from tykpy.broker.msgpackrpc.wire import RpcMessageReader, unpack_values
from tykpy.broker.pool.worker_messages import read_message
from tykpy.broker.router.answers import body_of
from tykpy.broker.router.peek import PeekError, peek, peek_map
from tykpy.bundles.errors import ArchiveError, ManifestError
from tykpy.bundles.files.archive import unpack
from tykpy.bundles.files.manifest import parse_manifest
from tykpy.ipc.bodies.store import BodyReader, BodyStore
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.errors import ControlClosedError, ControlCorruptError, RingCorruptError
from tykpy.ipc.frame import Kind
from tykpy.ipc.ring.layout import TAIL
from tykpy.workers.objects.borrowed import BorrowedSubject
from tykpy.workers.objects.msgpack_codec import decode

LIMITS: Final = Limits(
    max_message=64 * KIB,
    max_output=128 * KIB,
    max_concurrent_streams=16,
    stream_window=64 * KIB,
    control_burst=500,
    reset_burst=50,
)
MOST_ARRIVING: Final = 128 * KIB
"""Bytes of unfinished requests."""
MESSAGE: Final = 64 * KIB
"""Bytes of the largest message, for targets with a limit of their own."""


class Target(NamedTuple):
    """One kind of input."""

    run: Callable[[bytes], None]
    most: int
    """Bytes that one run may hold at a time, beside the input: limits of the code, and what Python needs for them."""


def http2(data: bytes) -> None:
    """The bytes after a handshake, whole and in pieces."""
    for size in (len(data) or 1, 7):
        peer = Peer(LIMITS, arriving=Arriving(MOST_ARRIVING))
        for piece in _pieces(data, size):
            peer.send(piece)
        _check_accounts(peer)


def http2_start(data: bytes) -> None:
    """The first bytes of a peer."""
    peer = Peer(LIMITS, handshake=False, arriving=Arriving(MOST_ARRIVING))
    peer.send(data)
    _check_accounts(peer)


def _check_accounts(peer: Peer) -> None:
    sender = peer.connection.sender
    held = sum(len(piece) for stream in peer.connection.streams.values() for piece in stream.pending or ())
    assert sender.held == held
    assert len(peer.connection.streams) <= LIMITS.max_concurrent_streams
    assert peer.unfinished == peer.arriving.bytes <= MOST_ARRIVING
    if peer.connection.closed:
        assert not peer.connection.streams
        assert not peer.echo.held
        assert peer.arriving.bytes == 0


def hpack(data: bytes) -> None:
    """Header blocks of one peer, each preceded by a byte with its length; a length of 0 forbids the table."""
    reader = GrpcHeadReader({PATH.encode(): Method(kind=1)}, LIMITS)
    decoder = HeaderDecoder(HeadCache(reader, LIMITS), LIMITS, lambda: None)
    at = 0
    with contextlib.suppress(Http2Error):
        while at < len(data):
            size = data[at]
            if size == 0:
                decoder.table_forbidden()
            else:
                decoder.request(data[at + 1 : at + 1 + size])
            at += 1 + size


def grpc_messages(data: bytes) -> None:
    """The DATA of one stream, with and without compression."""
    for encoding in (b"gzip", b"identity"):
        reader = GrpcMessageReader(encoding, MESSAGE)
        with contextlib.suppress(GrpcCallError):
            for piece in _pieces(data, 11):
                for message in reader.feed(piece, 0, len(piece)):
                    assert len(message) <= MESSAGE
        assert reader.buffered <= MESSAGE


def protobuf(data: bytes) -> None:
    """An object as the router peeks into it, and as the worker decodes it."""
    try:
        expected = Object.FromString(data)
    except DecodeError:
        expected = None
    with contextlib.suppress(DecodeError):
        Event.FromString(data)
    try:
        seen = peek(data)
    except PeekError as error:
        # Within a group, whose content nobody looks at, the library takes a field number that the format forbids.
        if expected is not None and "field number 0" not in str(error):
            raise
        return
    if expected is not None:
        assert (seen.hook_type, seen.hook_name) == (expected.hook_type, expected.hook_name)
        assert seen.bundle_hash == expected.spec.get("bundle_hash", "")


def borrowed(data: bytes) -> None:
    """An object in the store: decoded without its body and then with it, it equals the object decoded at once."""
    try:
        expected = Object.FromString(data)
    except DecodeError:
        expected = None
    store = BodyStore(64 * KIB)
    stored = store.put(data)
    assert stored is not None
    reader = BodyReader(os.dup(store.readable))
    with contextlib.suppress(DecodeError):
        found = BorrowedSubject.decode(reader.borrow(stored.offset, stored.size, MESSAGE), larger_than=8)
        if found is not None:
            _ = found.request().object
            assert expected is not None
            expected.request.return_overrides.SetInParent()
            assert found.message == expected
    del stored
    reader.close()
    store.close()


def msgpack_rpc(data: bytes) -> None:
    """The bytes of a MessagePack-RPC peer, in pieces."""
    reader = RpcMessageReader(MESSAGE)
    with contextlib.suppress(WireError):
        for piece in _pieces(data, 13):
            reader.feed(piece)
            while (message := reader.next()) is not None:
                with contextlib.suppress(ValueError):
                    unpack_values(message.params)


def msgpack_object(data: bytes) -> None:
    """An object or event as a map, as the router peeks into it and as the worker decodes it."""
    with contextlib.suppress(PeekError):
        peek_map(data)
    with contextlib.suppress(ValueError):
        decode(Object, data)
    with contextlib.suppress(ValueError):
        decode(Event, data)


def ring(data: bytes) -> None:
    """A ring left by another process: the position of its tail (4 bytes), and its contents."""
    with rings() as both:
        both.damage(0, data[4 : 4 + 4096])
        both.a_writable.words[TAIL] = int.from_bytes(data[:4], "little")
        with contextlib.suppress(RingCorruptError):
            while both.consumer.readable():
                both.consumer.pop()
                both.consumer.commit()


def control(data: bytes) -> None:
    """The bytes that a worker writes to its control socket."""
    here, there = socket.socketpair()
    broker = ControlSocket(here, blocking=False)
    with there:
        there.setblocking(False)
        there.send(data)
    with contextlib.suppress(ControlClosedError, ControlCorruptError):
        while messages := broker.receive():
            for message in messages:
                with contextlib.suppress(ValueError, ControlCorruptError):
                    read_message(message)
    broker.close()


def answer(data: bytes) -> None:
    """The payload of a worker's answer."""
    for is_error in (False, True):
        with contextlib.suppress(DispatchError):
            assert isinstance(body_of(Answer(1, is_error, whole(data), 0), Kind.OBJECT), bytes)


def manifest(data: bytes) -> None:
    """A `manifest.json`."""
    with contextlib.suppress(ManifestError):
        parse_manifest(data)


def archive(data: bytes) -> None:
    """A bundle as a ZIP."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in", "a.zip")
        source.parent.mkdir()
        source.write_bytes(data)
        with contextlib.suppress(ArchiveError):
            unpack(source, Path(folder, "in", "out"))
        assert [path.name for path in Path(folder).iterdir()] == ["in"]


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


TARGETS: Final[dict[str, Target]] = {
    "http2": Target(http2, 4 * MIB),
    "http2_start": Target(http2_start, 4 * MIB),
    "hpack": Target(hpack, 2 * MIB),
    "grpc_messages": Target(grpc_messages, MIB),
    "protobuf": Target(protobuf, MIB),
    "borrowed": Target(borrowed, MIB),
    "msgpack_rpc": Target(msgpack_rpc, 4 * MIB),
    "msgpack_object": Target(msgpack_object, 4 * MIB),
    "ring": Target(ring, MIB),
    "control": Target(control, 8 * MIB),
    "answer": Target(answer, 4 * MIB),
    "bulk": Target(big_messages.bulk, MIB),
    "bodies": Target(big_messages.bodies, MIB),
    "manifest": Target(manifest, 4 * MIB),
    "archive": Target(archive, 4 * MIB),
}
