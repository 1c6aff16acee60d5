"""A peer's bytes are answered or refused, and always the same way, however they are cut."""

import itertools

from hpack import Decoder, Encoder, HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman as decode_huffman_slowly
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from tests.support.peers.http2_peer import Frame, Peer, data, message, reset, settings, window_update
from tykpy.broker.arriving import Arriving
from tykpy.broker.grpc.head import GrpcHead, GrpcHeadReader, Method
from tykpy.broker.http2.errors import Http2Error
from tykpy.broker.http2.frames import PREFACE, FrameType, pack_frame
from tykpy.broker.http2.hpack.fields import read_field
from tykpy.broker.http2.hpack.head_cache import HeadCache, HeaderDecoder
from tykpy.broker.http2.hpack.huffman import decode_huffman, is_plain
from tykpy.broker.http2.limits import Limits

SMALL = Limits(max_message=2000, max_concurrent_streams=4, stream_window=1000, control_burst=200, reset_burst=20)
MOST_ARRIVING = 3000
"""Limit of the bytes of unfinished requests."""
PATH = "/coprocess.Dispatcher/Dispatch"

stream_ids = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 11, 2**31 - 1])
raw_frames = st.builds(pack_frame, st.integers(0, 12), st.integers(0, 255), stream_ids, st.binary(max_size=60))
bodies = st.sampled_from([b"", b"x", b"hold:", b"fail:NOT_FOUND:x", b"y" * 1990, b"z" * 2001])
_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def literal(text: bytes, coded: bool) -> bytes:
    """Encode a string of at most 126 bytes, Huffman-coded if `coded`."""
    code = _huffman.encode(text) if coded else text
    return bytes((len(code) | coded << 7,)) + code


names = st.sampled_from(
    [b"traceparent", b"x", b"X", b"te", b"connection", b"content-length", b"grpc-timeout", b"grpc-encoding", b":path"]
)
values = st.one_of(
    st.sampled_from([b"", b"trailers", b"gzip", b"7", b"7S", b"a b", b" a", b"a ", b"a\r", b"a\0b", b"\t", b"v" * 126]),
    st.binary(max_size=30),
)
literal_fields = st.builds(
    lambda kind, name, name_coded, value, value_coded: (
        bytes((kind,)) + literal(name, name_coded) + literal(value, value_coded)
    ),
    st.sampled_from([0x00, 0x10, 0x40]), names, st.booleans(), values, st.booleans(),
)  # fmt: skip
KNOWN_BLOCK = (
    bytes.fromhex("8386") + b"\x04" + literal(PATH.encode(), True) + b"\x0f\x10" + literal(b"application/grpc", True)
)


def cold_decoder() -> HeaderDecoder:
    """Return a decoder with an empty cache, for a peer without a dynamic table."""
    cache = HeadCache(GrpcHeadReader({PATH.encode(): Method(kind=1)}, Limits()), Limits())
    decoder = HeaderDecoder(cache, Limits(), lambda: None)
    decoder.table_forbidden()
    return decoder


def warm_decoder() -> HeaderDecoder:
    """Return a decoder that has cached the leading fields, and one more field after them."""
    decoder = cold_decoder()
    field = b"\0" + literal(b"traceparent", True) + literal(b"00-1", True)
    for block in (KNOWN_BLOCK, KNOWN_BLOCK + field):
        decoder.request(block)
    return decoder


def meaning(decoder: HeaderDecoder, block: bytes) -> object:
    """Decode a block; return what it means, or its error."""
    try:
        head = decoder.request(block)
    except Http2Error as error:
        return type(error), error.code
    assert isinstance(head, GrpcHead)
    return head.timeout_ns, head.encoding, head.content_length, head.plain_kind, head.error and head.error.code


def plain_block(path: str) -> bytes:
    return b"\x83\x86\x04" + bytes((len(path),)) + path.encode() + b"\x0f\x10\x10application/grpc"


paths = st.sampled_from(
    [PATH] * 4
    + ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
    + ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
)
requests = st.builds(
    lambda path, stream_id, flags, body, times, cut: (
        pack_frame(FrameType.HEADERS, 4, stream_id, plain_block(path))
        + data(stream_id, (message(body) * times)[:cut], flags)
    ),
    paths, stream_ids, st.sampled_from([0, 1]), bodies, st.sampled_from([1, 1, 2]), st.sampled_from([3, 5, 11, 3000]),
)  # fmt: skip
likely_frames = st.one_of(
    requests,
    raw_frames,
    st.builds(window_update, stream_ids, st.sampled_from([0, 1, 500, 2**31 - 1])),
    st.builds(reset, stream_ids),
    st.builds(lambda size: settings(initial_window_size=size), st.sampled_from([0, 1, 100, 65_535, 2**31 - 1])),
    st.builds(lambda flags, part: pack_frame(9, flags, 1, part), st.sampled_from([0, 4]), st.binary(max_size=20)),
)
conversations = st.lists(likely_frames, max_size=25).map(b"".join)


def converse(pieces: list[bytes], *, release: bool = False) -> tuple[Peer, list[Frame]]:
    peer = Peer(SMALL, arriving=Arriving(MOST_ARRIVING))
    peer.received.clear()
    for piece in pieces:
        peer.send(piece)
    if release:
        peer.echo.release()
        peer.take()
    return peer, peer.received


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def check_accounts(peer: Peer) -> None:
    """Check the invariants, which hold for any input."""
    sender = peer.connection.sender
    waiting = [stream for stream in peer.connection.streams.values() if stream.pending]
    assert sender.held == sum(len(piece) for stream in waiting for piece in stream.pending or ())
    assert len(peer.connection.streams) <= SMALL.max_concurrent_streams
    assert peer.unfinished == peer.arriving.bytes <= MOST_ARRIVING
    assert len(peer.echo.dispatched) >= len(peer.echo.cancelled) == len(set(map(id, peer.echo.cancelled)))
    if peer.connection.closed:
        assert not peer.connection.streams
        assert not peer.echo.held
        assert peer.arriving.bytes == sender.held == 0


@given(st.binary(max_size=300))
def test_any_bytes_instead_of_a_preface(start: bytes) -> None:
    peer = Peer(SMALL, arriving=Arriving(MOST_ARRIVING), handshake=False)
    peer.send(start)
    assert peer.connection.closed is not PREFACE.startswith(start[: len(PREFACE)])


@given(st.binary(max_size=400))
def test_any_bytes_after_the_handshake(noise: bytes) -> None:
    peer, _ = converse([noise])
    check_accounts(peer)


@given(conversations)
def test_any_frames(stream: bytes) -> None:
    peer, _ = converse([stream], release=True)
    check_accounts(peer)


@budget(max_examples=200)
@given(conversations, st.lists(st.integers(0, 10_000), max_size=12))
def test_pieces_make_no_difference(stream: bytes, places: list[int]) -> None:
    whole, answers = converse([stream])
    parts, again = converse(cut(stream, places))
    assert again == answers
    assert [call.body for call in parts.echo.dispatched] == [call.body for call in whole.echo.dispatched]


@given(conversations)
def test_every_stream_is_answered_at_most_once(stream: bytes) -> None:
    _, answers = converse([stream], release=True)
    ends = [frame.stream_id for frame in answers if frame.kind in (0, 1) and frame.flags & 1]
    assert len(ends) == len(set(ends))


@given(st.binary(max_size=80))
def test_the_huffman_code_is_the_librarys(code: bytes) -> None:
    try:
        expected = decode_huffman_slowly(code)
    except HPACKError:
        expected = None
    try:
        assert decode_huffman(code) == expected
    except ValueError:
        assert expected is None
    # `is_plain` learns from each successful decoding.
    assert is_plain(code) == (expected is not None and not set(expected) & set(b" \t\r\n\0"))


@given(st.lists(literal_fields, max_size=4), st.binary(max_size=3))
def test_fields_after_a_known_prefix_keep_their_meaning(tail: list[bytes], rest: bytes) -> None:
    known = warm_decoder()
    block = KNOWN_BLOCK + b"".join(tail) + rest
    expected = meaning(cold_decoder(), block)
    for _ in range(3):
        assert meaning(known, block) == expected


@given(st.binary(min_size=1, max_size=80))
def test_fields_are_read_as_the_library_reads_them(block: bytes) -> None:
    """Compare with hpack, without a dynamic table and without size updates."""
    library = Decoder()
    library.header_table_size = 0
    library.max_allowed_table_size = 0
    try:
        expected = [(bytes(n), bytes(v)) for n, v in library.decode(block, raw=True)]
    except (HPACKError, IndexError):
        expected = None
    fields, at = [], 0
    try:
        while at < len(block):
            name, value, at = read_field(block, at)
            fields.append((name, value))
    except ValueError:
        assert expected is None or block[0] & 0xE0 == 0x20
        return
    assert fields == expected


@given(st.lists(st.binary(max_size=60) | st.builds(lambda v: Encoder().encode([("k", v)]), st.text("ab")), max_size=6))
def test_blocks_with_a_table_are_read_as_the_library_reads_them(blocks: list[bytes]) -> None:
    """Compare with hpack, except for sizes above 28 bits and more than two size updates, which we refuse."""
    ours, library = HeaderDecoder(HeadCache(READER, Limits()), Limits(), lambda: None), Decoder()
    for block in blocks:
        try:
            expected = [(bytes(n), bytes(v)) for n, v in library.decode(block, raw=True)]
        except (HPACKError, IndexError):
            expected = None
        try:
            assert ours._decode(block) == expected
        except Http2Error:
            assert expected is None or block[:1] >= b"\x20"
            return
        assert [*ours._table.dynamic_entries] == [(bytes(n), bytes(v)) for n, v in library.header_table.dynamic_entries]


READER = GrpcHeadReader({PATH.encode(): Method(kind=1)}, Limits())
names = st.sampled_from(
    ["grpc-timeout", "traceparent", "x", "te", "content-type", "grpc-encoding", "content-length", "Bad"]
)
values = st.sampled_from(["1S", "trailers", "application/grpc", "gzip", "0", "", " bad", "00-1-2-01"])


@given(st.lists(st.lists(st.tuples(names, values), max_size=4), min_size=1, max_size=8))
def test_the_cache_changes_nothing(calls: list[list[tuple[str, str]]]) -> None:
    reader = GrpcHeadReader({PATH.encode(): Method(kind=1)}, Limits())
    shared = HeadCache(reader, Limits())
    base = [(":method", "POST"), (":scheme", "http"), (":path", PATH), ("content-type", "application/grpc")]
    encoder = Encoder()
    encoder.header_table_size = 0
    encoder.encode(base)

    def look(cache: HeadCache, block: bytes) -> object:
        decoder = HeaderDecoder(cache, Limits(), lambda: None)
        decoder.table_forbidden()
        try:
            head = decoder.request(block)
        except Http2Error as error:
            return error.code, error.message
        return [str(getattr(head, name)) for name in type(head).__slots__] + [head.content_length]

    for extra in calls * 2:
        block = encoder.encode(base + extra)
        assert look(shared, block) == look(HeadCache(reader, Limits()), block)
