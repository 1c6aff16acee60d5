"""Header blocks to request heads: HPACK, the checks of HTTP, and a cache that makes both rare.

Once the peer's table has size 0, a block is a pure function of its bytes. So the leading fields that a client repeats
in all calls of a method are one dictionary look-up. Of what follows, `grpc-timeout` is read, and what means nothing to
the application (`traceparent`) is stepped over: it is the call's metadata, handed on undecoded.
"""

from collections.abc import Callable
from typing import Final, Protocol

from tykpy.broker.http2.errors import ErrorCode, MalformedError, PeerError
from tykpy.broker.http2.hpack.fields import coded_name, is_size_update, read_field, read_size_updates, step_over
from tykpy.broker.http2.hpack.table import DynamicTable
from tykpy.broker.http2.hpack.validate import (
    FIELD_OVERHEAD,
    Header,
    check_field,
    check_request,
    check_trailers,
    content_length,
    list_size,
    takes_any_value,
)
from tykpy.broker.http2.limits import DECODE_FACTOR, KIB, Limits
from tykpy.ipc.frame import MAX_METADATA

MAX_CACHED_BLOCK: Final = 1 * KIB
MAX_CACHED_HEADS: Final = 256
"""Heads kept; then all are dropped, and those in use come back with one slow call each."""
MAX_UNREAD: Final = 256
"""Names kept of fields that nobody reads; then all are dropped."""
CODED_FACTOR: Final = 2
"""A text has less than so many bytes for each one of its Huffman code: the shortest symbols have 5 bits."""
MAX_PREFIXES: Final = 4
"""Lengths of prefixes tried: one for each method a client calls."""
FORBID_AFTER: Final = 2
"""Blocks of a connection. Until a peer has acknowledged that it has no table it may use the default one anyway, so it
costs nothing not to say so at first; one that sends a single request, as tools do, never hears of it."""
STABLE: Final = frozenset(
    (
        b":method",
        b":scheme",
        b":path",
        b":authority",
        b"te",
        b"content-length",
        b"content-type",
        b"user-agent",
        b"accept-encoding",
        b"grpc-encoding",
        b"grpc-accept-encoding",
    )
)
"""Fields that are the same in all calls of one client to one method."""


class RequestHead:
    """What a request's header list says; immutable and shared by all requests with the same list.

    An application subclasses it with what it needs to know.
    """

    __slots__ = ("answer_at_once", "content_length", "size")

    def __init__(self) -> None:
        self.content_length: int | None = None
        """Bytes of body announced."""
        self.answer_at_once = False
        """The application wants to know of the request before its body comes."""
        self.size = 0
        """Bytes of the list as it is counted for the limit; of a head from the cache, of its leading fields alone."""


class HeadReader(Protocol):
    """What an application makes of header lists."""

    read_names: frozenset[bytes]
    """The fields that `refine_head` looks at; it need not be given others."""

    def read_head(self, headers: list[Header], size: int) -> RequestHead:
        """The head of a valid list of `size` bytes, which may be above the limit."""

    def refine_head(self, head: RequestHead, headers: list[Header]) -> RequestHead | None:
        """The head where these fields follow those of `head`; itself if they change nothing.

        None: they cannot be taken alone, read the whole list.
        """

    def pack_metadata(self, headers: list[Header]) -> bytes | None:
        """Encode the fields of a list that are the call's metadata, up to MAX_METADATA bytes; None: there are none."""


class HeadCache:
    """Heads by the bytes of their blocks, for all connections of a server; only for tables of size 0."""

    def __init__(self, reader: HeadReader, limits: Limits) -> None:
        self.reader = reader
        self._max_list = limits.max_header_list
        self._heads: dict[bytes, RequestHead] = {}
        self.known = self._heads.get
        """The head of a whole block that is known, or None."""
        self._prefixes: tuple[int, ...] = ()
        self._unread: set[bytes] = set()
        """Names, as they are coded, of fields that mean nothing to the application."""

    def find(self, block: bytes) -> tuple[RequestHead, bytes | None] | None:
        """Return the head of a block whose leading fields are known, and the metadata behind them.

        None where what follows the leading fields is not as it should be, or too much.
        """
        for length in self._prefixes:
            head = self._heads.get(block[:length])
            if head is not None:
                return self._refine(head, block, length)
        return None

    def _refine(self, head: RequestHead, block: bytes, at: int) -> tuple[RequestHead, bytes | None] | None:
        headers = []
        size = head.size
        end = len(block)
        metadata = block[at:] if end - at <= MAX_METADATA else None
        has_metadata = False
        while at < end:
            start, at = at, step_over(block, at, self._unread)
            if at:
                has_metadata = True
                size += (at - start) * CODED_FACTOR + FIELD_OVERHEAD
                continue
            try:
                name, value, at = read_field(block, start)
                check_field(name, value)
            except (ValueError, MalformedError):
                return None
            if name.startswith(b":") or name == b"content-length":
                return None
            size += len(name) + len(value) + FIELD_OVERHEAD
            if name in self.reader.read_names:
                headers.append((name, value))
            else:
                has_metadata = True
                self._remember_unread(name, coded_name(block, start))
        if size > self._max_list or (has_metadata and metadata is None):
            return None
        refined = self.reader.refine_head(head, headers) if headers else head
        return None if refined is None else (refined, metadata if has_metadata else None)

    def _remember_unread(self, name: bytes, coded: bytes) -> None:
        if coded and takes_any_value(name):
            if len(self._unread) >= MAX_UNREAD:
                self._unread.clear()
            self._unread.add(coded)

    def learn(self, block: bytes) -> None:
        """Remember the head of the leading fields that will come again, where they make a request by themselves."""
        if len(block) > MAX_CACHED_BLOCK:
            return
        try:
            headers, length = _stable_prefix(block)
            head = make_head(self.reader, headers)
        except (MalformedError, ValueError):
            return
        if len(self._heads) >= MAX_CACHED_HEADS:
            self._heads.clear()
        self._heads[block[:length]] = head
        others = tuple(other for other in self._prefixes if other != length)
        self._prefixes = (length, *others)[:MAX_PREFIXES]


def _stable_prefix(block: bytes) -> tuple[list[Header], int]:
    headers = []
    at = 0
    while at < len(block):
        name, value, next_at = read_field(block, at)
        if name not in STABLE:
            break
        headers.append((name, value))
        at = next_at
    return headers, at


def make_head(reader: HeadReader, headers: list[Header]) -> RequestHead:
    """Check a request's list and have it read; raises MalformedError."""
    check_request(headers)
    size = list_size(headers)
    head = reader.read_head(headers, size)
    head.size = size
    head.content_length = content_length(headers)
    return head


def _nothing() -> None:
    """What a connection that is closed says to its peer."""


class HeaderDecoder:
    """One connection's HPACK state, and the way from a block to a head."""

    __slots__ = ("_blocks", "_cache", "_forbid_table", "_known", "_max_decoded", "_table", "metadata", "pure")

    def __init__(self, cache: HeadCache, limits: Limits, forbid_table: Callable[[], None]) -> None:
        """`forbid_table` is called to tell a peer that goes on sending blocks that they may use no table."""
        self._cache = cache
        self._known = cache.known
        self._max_decoded = limits.max_header_list * DECODE_FACTOR
        self._forbid_table = forbid_table
        self._table = DynamicTable()
        self._blocks = 0
        self.metadata: bytes | None = None
        """Of the last request: a block of header fields that uses no table; those of gRPC may be among them."""
        self.pure = False
        """The peer's table has size 0 for good: blocks mean what their bytes say."""

    def close(self) -> None:
        """Let go of the connection."""
        self._forbid_table = _nothing

    def table_forbidden(self) -> None:
        """The peer has acknowledged that it may use no table: forget the entries that it has made.

        RFC 7541, section 4.2, wants a size update at the start of its next block. Some peers never send one: .NET, and
        nginx and haproxy, which add fields to the table but never refer to them. What they add is dropped; a reference
        to an entry is an error.
        """
        self._table.limit = 0
        self._table.resize(0)
        self.pure = True

    def request(self, block: bytes) -> RequestHead:
        """The head of a request's block.

        Raises PeerError where it is not HPACK or much too large, MalformedError where it breaks HTTP's rules.
        """
        self.metadata = None
        if self.pure:
            head = self._known(block)
            if head is not None:
                return head
            found = self._cache.find(block)
            if found is not None:
                head, self.metadata = found
                return head
        pure = self.pure and not is_size_update(block)
        headers = self._decode(block)
        head = make_head(self._cache.reader, headers)
        self.metadata = self._cache.reader.pack_metadata(headers)
        if pure:
            self._cache.learn(block)
        return head

    def trailers(self, block: bytes) -> None:
        """Check a request's trailers; raises as `request` does."""
        check_trailers(self._decode(block))

    def skip(self, block: bytes) -> None:
        """Decode for the sake of the table alone; raises PeerError."""
        self._decode(block)

    def _decode(self, block: bytes) -> list[Header]:
        table = self._table
        try:
            at = read_size_updates(block, table)
            headers = self._read(block, at, None if self.pure else table)
        except ValueError as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, f"header block: {error}") from error
        if table.limit:
            self._blocks += 1
            if self._blocks == FORBID_AFTER:
                self._forbid_table()
        return headers

    def _read(self, block: bytes, at: int, table: DynamicTable | None) -> list[Header]:
        headers: list[Header] = []
        size = 0
        while at < len(block):
            name, value, at = read_field(block, at, table)
            headers.append((name, value))
            size += len(name) + len(value) + FIELD_OVERHEAD
            if size > self._max_decoded:
                raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"header list of more than {self._max_decoded} bytes")
        return headers
