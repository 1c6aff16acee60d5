"""Header blocks: HPACK, and the cache of heads."""

import pytest
from hpack import Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tests.support.peers.http2_peer import Peer, code_of, message, settings
from tykpy.broker.grpc.head import GrpcHead, GrpcHeadReader, Method
from tykpy.broker.grpc.wire import pack_fields
from tykpy.broker.http2.errors import ErrorCode, MalformedError, PeerError
from tykpy.broker.http2.frames import ACK, PREFACE, FrameType, pack_frame
from tykpy.broker.http2.hpack.fields import _MAX_NAMES, _names, read_field, step_over
from tykpy.broker.http2.hpack.head_cache import MAX_CACHED_HEADS, MAX_IGNORED, HeadCache, HeaderDecoder
from tykpy.broker.http2.hpack.huffman import decode_huffman
from tykpy.broker.http2.hpack.validate import _MAX_PLAIN, _MAX_PLAIN_NAME, Header, _plain
from tykpy.broker.http2.limits import Limits

PATH = b"/coprocess.Dispatcher/Dispatch"
CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH.decode()),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-go/1.80.0"),
    ("te", "trailers"),
]


class CountingReader(GrpcHeadReader):
    """Counts how often a whole list was read."""

    def __init__(self) -> None:
        super().__init__({PATH: Method(kind=1)}, Limits())
        self.count = 0

    def read_head(self, headers: list[Header], size: int) -> GrpcHead:
        self.count += 1
        return super().read_head(headers, size)


class Blocks:
    """A decoder whose peer has acknowledged that it may use no table, and the peer's encoder."""

    def __init__(self) -> None:
        self.reader = CountingReader()
        self.cache = HeadCache(self.reader, Limits())
        self.decoder = HeaderDecoder(self.cache, Limits(), lambda: None)
        self.decoder.table_forbidden()
        self.encoder = Encoder()
        self.encoder.header_table_size = 0

    def head(self, *extra: tuple[str, str]) -> GrpcHead:
        head = self.decoder.request(self.encoder.encode(CALL + list(extra)))
        assert isinstance(head, GrpcHead)
        return head


def test_the_same_headers_are_read_once() -> None:
    blocks = Blocks()
    first = [blocks.head() for _ in range(3)][-1]
    read = blocks.reader.count
    assert all(blocks.head() is first for _ in range(100))
    assert blocks.reader.count == read


def test_fields_that_always_differ_are_cheap() -> None:
    blocks = Blocks()
    for _ in range(3):
        blocks.head()
    read = blocks.reader.count
    for number in range(100):
        head = blocks.head(("grpc-timeout", f"{number + 1}m"), ("traceparent", f"00-{number:032x}-{number:016x}-01"))
        assert head.timeout_ns == (number + 1) * 1_000_000
        assert head.plain_kind == 1
    assert blocks.reader.count == read
    assert blocks.head().timeout_ns is None


def test_an_ignored_value_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks()
    for number in range(3000):
        blocks.head(("traceparent", f"00-{number * 7**40 % 2**128:032x}-{number * 7**20 % 2**64:016x}-01"))
    decoded: list[bytes] = []

    def counting(code: bytes) -> bytes:
        decoded.append(code)
        return decode_huffman(code)

    monkeypatch.setattr("tykpy.broker.http2.hpack.fields.decode_huffman", counting)
    head = blocks.head(("traceparent", "00-" + "1234567890abcdef" * 3 + "-01"))
    assert not decoded
    assert blocks.head(("traceparent", "two words"), ("grpc-timeout", "3S")).timeout_ns == 3_000_000_000
    assert len(decoded) == 2
    assert head is blocks.head()


def test_the_size_of_a_list_counts_ignored_fields() -> None:
    blocks = Blocks()
    many = [(f"key{number}", "v" * 100) for number in range(300)]
    for field in many[:200]:
        assert blocks.head(field).error is None
    assert blocks.head(*many[:100]).error is None
    error = blocks.head(*many).error
    assert error is not None
    assert error.code.name == "RESOURCE_EXHAUSTED"


def test_many_names_of_one_peer_do_not_slow_down_others() -> None:
    blocks = Blocks()
    for number in range(_MAX_NAMES + 10):
        blocks.head((f"odd{number}", "value"))
    assert len(_names) <= _MAX_NAMES
    late = blocks.encoder.encode([("late", "value")])
    blocks.head(("late", "value"))
    assert b"late" in _names.values()
    assert step_over(late, 0, blocks.cache._ignored) == len(late)


def test_names_of_ignored_fields_are_bounded() -> None:
    blocks = Blocks()
    for number in range(MAX_IGNORED + 10):
        blocks.head((f"key{number}", "value"))
    assert len(blocks.cache._ignored) <= MAX_IGNORED


def test_late_fields_that_matter_are_not_overlooked() -> None:
    blocks = Blocks()
    for _ in range(3):
        blocks.head()
    assert blocks.head(("x", "y"), ("grpc-encoding", "gzip")).encoding == b"gzip"
    assert blocks.head(("x", "y"), ("content-length", "7")).content_length == 7
    assert blocks.head(("x", "y"), ("grpc-timeout", "soon")).error is not None
    with pytest.raises(MalformedError):
        blocks.head(("x", "y"), (":path", "/"))
    with pytest.raises(MalformedError):
        blocks.head(("connection", "close"))


def test_the_size_of_a_list_counts_all_of_it() -> None:
    blocks = Blocks()
    for _ in range(3):
        blocks.head()
    error = blocks.head(*((f"key{number}", "v" * 1000) for number in range(35))).error
    assert error is not None
    assert error.code.name == "RESOURCE_EXHAUSTED"


def test_the_cache_is_bounded() -> None:
    blocks = Blocks()
    for number in range(MAX_CACHED_HEADS + 10):
        fields = CALL[:2] + [(":path", f"/{number}")] + CALL[3:]
        blocks.decoder.request(blocks.encoder.encode(fields))
    assert len(blocks.cache._heads) <= MAX_CACHED_HEADS
    assert blocks.head().method.kind == 1


def test_the_memory_of_names_is_bounded() -> None:
    blocks = Blocks()
    for number in range(2 * max(_MAX_NAMES, _MAX_PLAIN)):
        blocks.decoder.trailers(blocks.encoder.encode([(f"bounded-{number}", "")]))
    assert len(_names) <= _MAX_NAMES
    assert len(_plain) <= _MAX_PLAIN
    blocks.decoder.trailers(blocks.encoder.encode([("x" * (_MAX_PLAIN_NAME + 1), "")]))
    assert max(map(len, _plain)) <= _MAX_PLAIN_NAME


def test_an_integer_of_too_many_bytes_is_refused() -> None:
    """Even if many more bytes announce that the integer continues."""
    for more in (5, 60_000):
        with pytest.raises(ValueError, match="integer is too large"):
            read_field(b"\x00\x7f" + b"\xff" * more, 0)


class Table:
    """A decoder whose peer uses a table; counts how often it wanted to forbid that."""

    def __init__(self) -> None:
        self.forbidden = 0
        self.encoder = Encoder()
        self.decoder = HeaderDecoder(HeadCache(CountingReader(), Limits()), Limits(), self._forbid)

    def _forbid(self) -> None:
        self.forbidden += 1

    def refuse(self, block: bytes) -> str:
        with pytest.raises(PeerError) as caught:
            self.decoder.request(block)
        assert caught.value.code == ErrorCode.COMPRESSION_ERROR
        return caught.value.message


def test_the_table_works_until_the_peer_acknowledges_the_ban() -> None:
    table = Table()
    for _ in range(3):
        head = table.decoder.request(table.encoder.encode(CALL))
        assert isinstance(head, GrpcHead)
        assert head.method.kind == 1
        assert not table.decoder.pure
    assert table.forbidden == 1
    table.decoder.table_forbidden()
    table.encoder.header_table_size = 0
    table.decoder.request(table.encoder.encode(CALL))
    assert table.decoder.pure
    assert table.forbidden == 1


def test_a_reference_to_the_forbidden_table_is_an_error() -> None:
    table = Table()
    table.decoder.request(table.encoder.encode(CALL))
    table.decoder.table_forbidden()
    assert "of a table whose size is 0" in table.refuse(table.encoder.encode(CALL))


def test_a_peer_may_add_to_the_table_without_using_it() -> None:
    """nginx and haproxy do this, and never announce a smaller table."""
    table = Table()
    indexed = b"".join(
        b"\x40" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in CALL
    )
    for _ in range(2):
        table.decoder.request(indexed)
    table.decoder.table_forbidden()
    for _ in range(3):
        head = table.decoder.request(indexed)
        assert isinstance(head, GrpcHead)
        assert head.method.kind == 1
    assert not table.decoder._table.dynamic_entries


def test_a_peer_without_entries_sends_no_size_update() -> None:
    table = Table()
    plain = pack_fields(*((name.encode(), value.encode()) for name, value in CALL))
    table.decoder.request(plain)
    table.decoder.table_forbidden()
    assert table.decoder.pure
    table.decoder.request(plain)


@pytest.mark.parametrize(
    "updates",
    [b"\x3f\xe2\x1f", b"\x20\x20\x20", b"\x20" * 65_536, b"\x3f" + b"\xff" * 65_000, b"\x3f", b"\x3f\x80"],
    ids=["too large", "three", "very many", "huge", "cut", "cut within"],
)
def test_invalid_table_sizes_are_refused(updates: bytes) -> None:
    table = Table()
    table.refuse(updates)


def test_references_without_a_table_are_refused() -> None:
    blocks = Blocks()
    blocks.head()
    for update in (b"\x21", b"\x3f\x61"):
        with pytest.raises(PeerError, match="0 are allowed"):
            blocks.decoder.request(update + blocks.encoder.encode(CALL))


def test_the_table_evicts_as_the_librarys_does() -> None:
    table = Table()
    for number in range(300):
        table.encoder.header_table_size = (4096, 0, 200, 4096)[number % 4] if number % 7 == 0 else 4096
        large = "y" * 4100 * (number % 50 == 0)
        fields = [*CALL, ("key", "v" * (number % 90)), (f"k{number}", "x"), ("large", large)]
        headers = table.decoder._decode(table.encoder.encode(fields))
        assert headers == [(name.encode(), value.encode()) for name, value in fields]
        assert [*table.decoder._table.dynamic_entries] == [*table.encoder.header_table.dynamic_entries]


def test_the_second_header_block_makes_us_forbid_the_table() -> None:
    peer = Peer(handshake=False)
    (first, _) = peer.take()
    assert b"\0\x01" not in {first.payload[at : at + 2] for at in range(0, len(first.payload), 6)}
    peer.send(PREFACE, settings(), pack_frame(FrameType.SETTINGS, ACK, 0))
    assert {frame.kind for frame in peer.send(peer.request(1, b"x"))} == {FrameType.HEADERS, FrameType.DATA}
    forbid, *_ = peer.send(peer.request(3, b"x"))
    assert (forbid.kind, forbid.flags, forbid.payload) == (FrameType.SETTINGS, 0, b"\0\x01\0\0\0\0")
    assert [frame.kind for frame in peer.received].count(FrameType.SETTINGS) == 3, "two of ours, one acknowledgement"
    assert peer.connection.settings_awaited == 2
    peer.send(pack_frame(FrameType.SETTINGS, ACK, 0))
    assert peer.connection.settings_awaited == 0
    peer.encoder.header_table_size = 0
    for stream_id in (5, 7):
        peer.send(peer.request(stream_id, b"x"))
        assert peer.body(stream_id) == message(b"x")
    assert peer.connection._headers.pure


def test_an_acknowledgement_of_nothing_means_nothing() -> None:
    peer = Peer(handshake=False)
    peer.send(PREFACE, settings(), *[pack_frame(FrameType.SETTINGS, ACK, 0)] * 3)
    for stream_id in (1, 3):
        peer.send(peer.request(stream_id, b"x"))
        assert peer.body(stream_id) == message(b"x")
    assert peer.connection.settings_awaited == 2


@pytest.mark.parametrize(
    "tail", [b"\xbe", b"\x80", b"\x20", b"\x00\x05key", b"\x7f\xff\xff\xff\xff\xff", b"\x00\x81\x00\x00"]
)
def test_wrong_bytes_behind_known_fields_are_a_compression_error(tail: bytes) -> None:
    peer = Peer()
    for stream_id in (1, 3):
        peer.send(peer.request(stream_id, b"x"))
    block = peer.block() + tail
    answer = peer.send(len(block).to_bytes(3, "big") + b"\x01\x04\0\0\0\x05" + block)
    assert code_of(answer, FrameType.GOAWAY) == ErrorCode.COMPRESSION_ERROR


def test_every_symbol_of_the_huffman_code() -> None:
    encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    for text in (bytes(range(256)), bytes(reversed(range(256))), b"", b"www.example.com"):
        assert decode_huffman(encoder.encode(text)) == text


@pytest.mark.parametrize("code", [b"\x00", b"\xff\xff\xff\xff", b"\xf8\xff", b"\x1f\xff"])
def test_wrong_huffman_code(code: bytes) -> None:
    with pytest.raises(ValueError, match="Huffman"):
        decode_huffman(code)


def test_a_truncated_field_is_refused() -> None:
    block = Encoder().encode([("name", "some value")])
    for end in range(len(block)):
        with pytest.raises(ValueError, match="header block"):
            read_field(block[:end], 0)
