"""Big bodies in the broker: where they are stored, how often they are copied, and that they arrive complete."""

import asyncio
import os
import tracemalloc
from collections.abc import Iterator
from typing import cast

import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tests.support.peers.http2_peer import Peer, frames, message, settings, window_update
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.messages import GROWTH, GrpcMessageReader
from tykpy.broker.grpc.server import READ_BYTES, GrpcProtocol, GrpcServer
from tykpy.broker.grpc.wire import MESSAGE_PREFIX, GrpcCallError
from tykpy.broker.http2.frames import ACK, PREFACE, FrameType, pack_frame
from tykpy.broker.router.deaths import Death
from tykpy.broker.router.router import Router, RouterOptions
from tykpy.ipc.bodies.store import Body, BodyStore, StoredBody, body_bytes
from tykpy.ipc.frame import Kind, unpack_frame

KIB = 1024
MIB = 1024 * KIB
FRAME = 16 * KIB
SMALL_CHANGE = 128 * KIB
"""Bytes of heap for everything but bodies: a small read, a frame that came in pieces, heads, views, a dispatch."""


def big_object(size: int = 1_000_000) -> bytes:
    made = Object(hook_name="hook")
    made.request.raw_body = os.urandom(size)
    made.spec["bundle_hash"] = "x"
    return made.SerializeToString()


class Path:
    """A gateway's connection, the router and one worker in this process; the test runs the event loop."""

    def __init__(self, worker: LocalWorker) -> None:
        self.loop = asyncio.new_event_loop()
        self.worker = worker
        self.store = worker.link.channel.bodies
        self.router = Router(self.loop, RouterOptions(60 * 10**9, 100))
        self.router.join(worker.link)
        self.server = GrpcServer(self.router, loop=self.loop, bodies=self.store)
        self.protocol = cast(GrpcProtocol, self.server.protocol_factory())
        self.peer = Peer()
        self.written: list[bytes | memoryview] = []
        self.protocol.connection_made(cast(asyncio.Transport, self))
        windows = settings(initial_window_size=16 * MIB) + window_update(0, 16 * MIB)
        self.arrive(PREFACE + windows + pack_frame(FrameType.SETTINGS, ACK, 0))

    def arrive(self, data: bytes) -> None:
        """Deliver bytes of the gateway as the event loop reads them."""
        for at in range(0, len(data), READ_BYTES):
            piece = memoryview(data)[at : at + READ_BYTES]
            self.protocol.get_buffer(-1)[: len(piece)] = piece
            self.protocol.buffer_updated(len(piece))

    def turn(self) -> None:
        """Ring the doorbells."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def close(self) -> None:
        """Close the connection."""
        self.protocol.connection_lost(None)
        self.loop.close()

    # The transport

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, pieces: list[bytes | memoryview]) -> None:
        self.written += pieces

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0


@pytest.fixture
def path() -> Iterator[Path]:
    with local_worker() as worker:
        made = Path(worker)
        yield made
        made.close()


def upload(peer: Peer, stream_id: int, body: bytes) -> bytes:
    """Return a complete request in frames of the usual size."""
    data = message(body)
    parts = [data[at : at + FRAME] for at in range(0, len(data), FRAME)]
    packed = [pack_frame(FrameType.DATA, 0, stream_id, part) for part in parts[:-1]]
    last = pack_frame(FrameType.DATA, 1, stream_id, parts[-1])
    return b"".join([peer.headers(stream_id), *packed, last])


def test_a_big_body_is_copied_once_on_its_way_out(path: Path) -> None:
    body = big_object()
    first, second = (upload(path.peer, stream_id, body) for stream_id in (1, 3))
    path.arrive(first)  # what is made once is made
    path.turn()
    path.worker.finish(path.worker.claim())
    path.router.receive(path.worker.link)
    path.turn()
    path.written.clear()
    tracemalloc.start()
    try:
        path.arrive(second)
        path.turn()
        _, peak_in = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        path.worker.finish(path.worker.claim())
        tracemalloc.start()
        path.router.receive(path.worker.link)
        path.turn()
        _, peak_out = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_in < SMALL_CHANGE
    assert len(body) < peak_out < len(body) + SMALL_CHANGE
    answered = b"".join(frame.payload for frame in frames(b"".join(path.written)) if frame.kind == FrameType.DATA)
    assert answered == MESSAGE_PREFIX.pack(0, len(body)) + body


def test_uploads_side_by_side_arrive_whole(path: Path) -> None:
    bodies = {stream_id: big_object(300_000 + stream_id) for stream_id in (1, 3, 5)}
    uploads = [upload(path.peer, stream_id, body) for stream_id, body in bodies.items()]
    for frame in zip(*(frames(one) for one in uploads), strict=False):
        path.arrive(b"".join(pack_frame(one.kind, one.flags, one.stream_id, one.payload) for one in frame))
    for one in uploads:  # those of different lengths
        rest = frames(one)[min(len(frames(other)) for other in uploads) :]
        path.arrive(b"".join(pack_frame(last.kind, last.flags, last.stream_id, last.payload) for last in rest))
    path.turn()
    seen = {body_of(path.worker) for _ in bodies}
    assert seen == set(bodies.values())


def body_of(worker: LocalWorker) -> bytes:
    request = worker.claim()
    body: bytes = unpack_frame(request.payload).body
    worker.finish(request)
    return body


def test_a_body_is_freed_once_the_gateway_is_answered(path: Path) -> None:
    for stream_id in range(1, 41, 2):
        path.arrive(upload(path.peer, stream_id, big_object()))
        path.turn()
        body_of(path.worker)
        path.router.receive(path.worker.link)
    assert path.store.reserved < 2 * MIB


def test_a_body_is_freed_when_the_gateway_hangs_up(path: Path) -> None:
    half = upload(path.peer, 1, big_object())[: 500 * KIB]
    path.arrive(half)
    assert path.store.reserved > 0
    path.protocol.connection_lost(None)
    path.store.trim()
    path.store.trim()
    assert path.store.reserved == 0


def test_a_body_outlives_the_worker_that_died_with_it(path: Path) -> None:
    body = big_object()
    path.arrive(upload(path.peer, 1, body))
    path.router.lost(path.worker.link, Death("it died"))
    path.store.trim()
    path.store.trim()
    with local_worker(1, 2, bodies=path.store) as other:
        path.router.join(other.link)
        path.turn()
        assert body_of(other) == body
        path.router.receive(other.link)


@pytest.mark.parametrize("kind", [Kind.OBJECT, Kind.EVENT, Kind.EVENT_MAP])
def test_a_body_from_another_front_end_is_stored_when_it_is_sent(path: Path, kind: Kind) -> None:
    body = big_object()
    dispatch = RecordedDispatch(body, kind=kind)
    path.router.dispatch(dispatch)
    assert isinstance(dispatch.body, StoredBody)
    path.turn()
    body_of(path.worker)
    path.router.receive(path.worker.link)
    assert dispatch.outcomes == [body]


def test_a_body_has_its_own_memory_when_the_store_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BodyStore, "begin", lambda self, size: None)
    body = big_object()
    path.arrive(upload(path.peer, 1, body))
    path.turn()
    assert body_of(path.worker) == body


def test_a_queued_call_that_is_given_up_frees_its_body(path: Path) -> None:
    path.router.leave(path.worker.link)
    dispatch = RecordedDispatch(object_bytes("hook"))
    path.router.dispatch(dispatch)
    path.router.cancel(dispatch)
    assert dispatch.body == b""


# The reader of messages

BODIES = 4 * MIB


@pytest.fixture
def store() -> Iterator[BodyStore]:
    made = BodyStore(BODIES)
    yield made
    made.close()


def read(reader: GrpcMessageReader, stream: bytes, step: int) -> list[Body]:
    found: list[Body] = []
    for at in range(0, len(stream), step):
        end = min(len(stream), at + step)
        if not reader.feed_within(stream, at, end):
            found += reader.feed(stream, at, end)
    return found


@pytest.mark.parametrize("step", [999, 16 * KIB, 100_000, 10**6])
def test_only_big_messages_are_collected_in_the_store(store: BodyStore, step: int) -> None:
    sent = [os.urandom(size) for size in (300_000, 10, 17 * KIB, 16 * KIB, 0, 50_000)]
    reader = GrpcMessageReader(b"identity", MIB, store)
    found = read(reader, b"".join(map(message, sent)), step)
    assert [body_bytes(body) for body in found] == sent
    assert [isinstance(body, StoredBody) for body in found] == [len(body) > 16 * KIB for body in sent]
    assert reader.buffered == 0
    del found


@pytest.mark.parametrize("stored", [True, False])
def test_memory_is_reserved_as_a_large_message_arrives(store: BodyStore, stored: bool) -> None:
    reader = GrpcMessageReader(b"identity", 16 * MIB, store if stored else None)
    reader.feed(MESSAGE_PREFIX.pack(0, 3 * MIB) + bytes(1000), 0, 1005)
    assert reader.buffered == 1000 * GROWTH
    assert store.reserved <= 32 * KIB
    reader.feed(bytes(100_000), 0, 100_000)
    assert reader.buffered == 101_000 * GROWTH
    del reader


def test_a_compressed_message_is_collected_on_the_heap(store: BodyStore) -> None:
    reader = GrpcMessageReader(b"gzip", MIB, store)
    reader.feed(MESSAGE_PREFIX.pack(1, 500_000) + bytes(1000), 0, 1005)
    assert store.reserved == 0


def test_a_call_is_refused_without_shared_memory(store: BodyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BodyStore, "reserve", lambda self, offset, end: False)
    with pytest.raises(GrpcCallError, match="no shared memory") as caught:
        read(GrpcMessageReader(b"identity", MIB, store), message(bytes(100_000)), 1000)
    assert caught.value.code == GrpcCode.RESOURCE_EXHAUSTED
    del caught
