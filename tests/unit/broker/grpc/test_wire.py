"""gRPC on the wire: timeouts, error texts, messages, and the meaning of headers."""

import gzip
import re
import struct
import tracemalloc

import pytest

from tests.support.peers.http2_peer import PATH, Peer, data, message
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.codes import CODE_OF_STATUS, GrpcCode
from tykpy.broker.grpc.messages import GrpcMessageReader
from tykpy.broker.grpc.wire import (
    MAX_MESSAGE_BYTES,
    RATIO_FREE_SIZE,
    GrpcCallError,
    decompress,
    format_timeout,
    parse_timeout,
    percent_decode,
    percent_encode,
)
from tykpy.broker.http2.frames import END_HEADERS, END_STREAM, FrameType, pack_frame
from tykpy.broker.http2.limits import MIB, Limits
from tykpy.ipc.frame import Status


def compressed(body: bytes) -> bytes:
    packed = gzip.compress(body)
    return struct.pack(">BI", 1, len(packed)) + packed


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (b"1H", 3600 * 10**9), (b"2M", 120 * 10**9), (b"3S", 3 * 10**9), (b"4m", 4 * 10**6),
        (b"5u", 5000), (b"6n", 6), (b"0n", 0), (b"99999999H", 99999999 * 3600 * 10**9),
    ],
)  # fmt: skip
def test_timeouts_in_every_unit(text: bytes, ns: int) -> None:
    assert parse_timeout(text) == ns


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"1s", b"-1S", b"1.5S", b"123456789S", b" 1S", b"1S ", b"1S\n"])
def test_malformed_timeouts(text: bytes) -> None:
    with pytest.raises(GrpcCallError, match="grpc-timeout"):
        parse_timeout(text)


@pytest.mark.parametrize("seconds", [1e-9, 0.001, 0.5, 10, 3600, 86_400, 10**7])
def test_timeouts_are_never_shorter_than_asked_for(seconds: float) -> None:
    sent = parse_timeout(format_timeout(seconds)) / 1e9
    assert seconds * 0.999 <= sent <= seconds * 1.01 + 1e-9


@pytest.mark.parametrize("text", ["", "plain", "100 %", "a\nb\tc\x00", "ä€𝄞", '{"json": "yes"}', "%41"])
def test_error_texts_survive(text: str) -> None:
    encoded = percent_encode(text)
    assert percent_decode(encoded) == text
    assert all(0x20 <= byte <= 0x7E for byte in encoded)


@pytest.mark.parametrize("text", ["a" * 100_000, "ä" * 100_000, "%" * 100_000, "𝄞" * 2000])
def test_error_texts_are_cut_between_characters(text: str) -> None:
    encoded = percent_encode(text)
    assert len(encoded) <= MAX_MESSAGE_BYTES
    assert percent_decode(encoded).removesuffix("...") == text[: len(percent_decode(encoded)) - 3]


def test_odd_percent_signs_are_left_alone() -> None:
    assert percent_decode(b"100% %zz %4") == "100% %zz %4"
    assert percent_decode(b"%FF") == "�"


def test_every_status_has_a_code() -> None:
    assert set(CODE_OF_STATUS) == set(Status)


def test_decompression_is_bounded() -> None:
    assert decompress(gzip.compress(b"x" * 1000), 1000) == b"x" * 1000
    for body, code in ((bytes(1001), GrpcCode.RESOURCE_EXHAUSTED), (bytes(10**7), GrpcCode.RESOURCE_EXHAUSTED)):
        with pytest.raises(GrpcCallError) as caught:
            decompress(gzip.compress(body), 1000)
        assert caught.value.code == code


def test_a_compression_bomb_is_not_unpacked() -> None:
    bomb, limit = gzip.compress(bytes(64 * MIB)), 1 * MIB
    tracemalloc.start()
    try:
        with pytest.raises(GrpcCallError):
            decompress(bomb, limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit


def test_the_ratio_of_a_compression_is_bounded() -> None:
    """100 KB that become 100 MB keep the event loop for 0.8 s."""
    usual = b"".join(b'{"id": %d, "name": "someone"}' % number for number in range(200_000))
    for body in (usual, bytes(RATIO_FREE_SIZE)):
        assert decompress(gzip.compress(body), 100 * MIB) == body
    with pytest.raises(GrpcCallError, match="more than 100 times as many when decompressed") as caught:
        decompress(gzip.compress(bytes(100 * MIB)), 100 * MIB)
    assert caught.value.code == GrpcCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("data", [b"", b"x", gzip.compress(b"x")[:-1], gzip.compress(b"x") + b"more"])
def test_data_that_is_not_gzip_is_refused(data: bytes) -> None:
    with pytest.raises(GrpcCallError) as caught:
        decompress(data, 1000)
    assert caught.value.code == GrpcCode.INTERNAL


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 1000])
def test_messages_in_any_pieces(step: int) -> None:
    stream = message(b"one") + message(b"") + compressed(b"two" * 10) + message(b"3")
    reader = GrpcMessageReader(b"gzip", 1000)
    found = [m for at in range(0, len(stream), step) for m in reader.feed(stream, at, min(len(stream), at + step))]
    assert found == [b"one", b"", b"two" * 10, b"3"]
    assert not reader.within_message
    assert reader.buffered == 0


def test_an_empty_message_whose_prefix_ends_the_data() -> None:
    reader = GrpcMessageReader(b"identity", 10)
    assert reader.feed(b"\0\0\0\0\0", 0, 5) == [b""]


@pytest.mark.parametrize(
    ("encoding", "prefix", "code"),
    [
        (b"identity", b"\1\0\0\0\1", GrpcCode.INTERNAL),
        (b"gzip", b"\2\0\0\0\1", GrpcCode.INTERNAL),
    ],
)
def test_wrong_prefixes(encoding: bytes, prefix: bytes, code: GrpcCode) -> None:
    with pytest.raises(GrpcCallError) as caught:
        GrpcMessageReader(encoding, 1000).feed(prefix, 0, 5)
    assert caught.value.code == code


def test_a_compressed_call() -> None:
    peer = Peer()
    peer.send(peer.headers(1, ("grpc-encoding", "gzip")), data(1, compressed(b"hello")))
    assert peer.body(1) == message(b"hello")
    headers = next(peer.fields(frame) for frame in peer.received if frame.kind == FrameType.HEADERS)
    assert headers["grpc-accept-encoding"] == "identity,gzip"


@pytest.mark.parametrize(
    ("extra", "path", "code", "text"),
    [
        ([("grpc-encoding", "snappy")], PATH, 12, "snappy"),
        ([("grpc-timeout", "soon")], PATH, 13, "soon"),
        ([], "/coprocess.Dispatcher/Other", 12, "/coprocess.Dispatcher/DispatchEvent"),
        ([], "/", 12, "unknown method /"),
    ],
)
def test_calls_refused_by_their_headers(extra: list[tuple[str, str]], path: str, code: int, text: str) -> None:
    """Before the body arrives, since a caller may wait for an answer before it sends the body."""
    peer = Peer()
    peer.send(peer.headers(1, *extra, path=path))
    trailers = peer.trailers(1)
    assert trailers["grpc-status"] == str(code)
    assert text in percent_decode(trailers["grpc-message"].encode())
    assert trailers["grpc-accept-encoding"] == "identity,gzip"
    assert [f.kind for f in peer.received[-2:]] == [FrameType.HEADERS, FrameType.RST_STREAM]


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc; charset=x"])
def test_content_types_of_grpc(content_type: str) -> None:
    peer = Peer()
    fields = [(":method", "POST"), (":scheme", "http"), (":path", "/coprocess.Dispatcher/Dispatch")]
    block = peer.encode([*fields, ("content-type", content_type)])
    peer.send(pack_frame(FrameType.HEADERS, END_HEADERS, 1, block), data(1, message(b"x")))
    assert peer.body(1) == message(b"x")


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [("GET", "application/grpc", "405"), ("POST", "application/json", "415"), ("POST", "application/grpc+json", "415")],
)
def test_requests_other_than_grpc_are_answered_as_http(method: str, content_type: str, status: str) -> None:
    peer = Peer()
    fields = [(":method", method), (":scheme", "http"), (":path", "/"), ("content-type", content_type)]
    peer.send(pack_frame(FrameType.HEADERS, END_HEADERS | END_STREAM, 1, peer.encode(fields)))
    (headers,) = [frame for frame in peer.received if frame.kind == FrameType.HEADERS]
    assert peer.fields(headers)[":status"] == status
    assert b"gRPC only" in peer.body(1)
    assert peer.received[-1].flags & END_STREAM


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "no message"),
        (b"\0\0", "within a message"),
        (message(b"hello")[:-1], "within a message"),
        (message(b"one") + message(b"two"), "more than one"),
    ],
)
def test_requests_without_exactly_one_message(body: bytes, text: str) -> None:
    peer = Peer()
    peer.send(peer.headers(1), data(1, body))
    trailers = peer.trailers(1)
    assert trailers["grpc-status"] == str(int(GrpcCode.INTERNAL))
    assert text in trailers["grpc-message"]
    assert not peer.echo.dispatched


@pytest.mark.parametrize("step", [1, 5, 700, 10_000])
def test_a_message_above_the_limit_is_refused_by_its_beginning(step: int) -> None:
    """The beginning names the hook, in whatever pieces it arrives."""
    peer = Peer(Limits(max_message=2000))
    beginning = message(Object(hook_name="mine", hook_type="Pre", metadata={"x": "y" * 3000}).SerializeToString())[
        :1100
    ]
    peer.send(peer.headers(1), *(data(1, beginning[at : at + step], 0) for at in range(0, len(beginning), step)))
    trailers = peer.trailers(1)
    assert trailers["grpc-status"] == str(int(GrpcCode.RESOURCE_EXHAUSTED))
    assert re.fullmatch(r"hook mine: the request has 3\d\d\d bytes, and may have 2000 .*", trailers["grpc-message"])


def test_a_refused_message_without_a_name_has_no_hook() -> None:
    peer = Peer(Limits(max_message=1000))
    peer.send(peer.headers(1), data(1, message(b"\xff" * 1001), 0))
    assert "hook (unknown): the request has 1001 bytes" in peer.trailers(1)["grpc-message"]


def test_a_deadline_that_has_passed_is_not_dispatched() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"x", ("grpc-timeout", "0n")))
    assert peer.trailers(1)["grpc-status"] == str(int(GrpcCode.DEADLINE_EXCEEDED))
    assert not peer.echo.dispatched


def test_the_time_a_request_takes_to_arrive_counts() -> None:
    peer = Peer()
    body = message(b"x")
    peer.send(peer.headers(1, ("grpc-timeout", "10S")), data(1, body[:3], 0))
    peer.send(data(1, body[3:]))
    assert 0 < peer.echo.dispatched[0].deadline_ns < 10 * 10**9
