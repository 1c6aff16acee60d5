"""Turns header blocks into request heads: HPACK, HTTP's checks, and a cache that makes both rare.

Once the peer's table has size 0, the meaning of a block depends on its bytes alone. Then the leading fields that a
client repeats in all calls of a method take one dictionary look-up. Of the fields after them, `grpc-timeout` is read;
those that mean nothing to the application (`traceparent`) are skipped: they are the call's metadata, passed on encoded.
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
"""Cached heads; when full, all are dropped, and those in use come back with one slow call each."""
MAX_IGNORED: Final = 256
"""Cached names of fields that mean nothing to the application; when full, all are dropped."""
CODED_FACTOR: Final = 2
"""Upper bound for the bytes of a text per byte of its Huffman code: the shortest symbols have 5 bits."""
MAX_PREFIXES: Final = 4
"""Lengths of prefixes that are tried: one for each method a client calls."""
FORBID_AFTER: Final = 2
"""Header blocks of a connection after which its table is forbidden. A peer may use the default table until it has
acknowledged that anyway, and one that sends a single request, as tools do, is spared the extra SETTINGS."""
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
"""Fields with the same value in all calls of one client to one method."""


class RequestHead:
    """The meaning of a request's header list; immutable and shared by all requests with the same list.

    An application subclasses it to add what it needs.
    """

    __slots__ = ("answer_at_once", "content_length", "size")

    def __init__(self) -> None:
        self.content_length: int | None = None
        """Announced length of the body in bytes."""
        self.answer_at_once = False
        """The application wants to see the request before its body arrives."""
        self.size = 0
        """Size of the list as counted for the limit, in bytes; for a cached head, of the leading fields only."""


class HeadReader(Protocol):
    """Makes an application's heads of header lists."""

    read_names: frozenset[bytes]
    """The fields that `refine_head` needs to see."""

    def read_head(self, headers: list[Header], size: int) -> RequestHead:
        """Return the head of a valid list of `size` bytes, which may be above the limit."""

    def refine_head(self, head: RequestHead, headers: list[Header]) -> RequestHead | None:
        """Return the head of a list with the fields of `head` and these; `head` itself if they change nothing.

        Returns None if the whole list has to be read.
        """

    def pack_metadata(self, headers: list[Header]) -> bytes | None:
        """Encode the fields that are the call's metadata, up to MAX_METADATA bytes; return None if there are none."""


class HeadCache:
    """Caches heads by the bytes of their blocks, for all connections of a server; only for tables of size 0."""

    def __init__(self, reader: HeadReader, limits: Limits) -> None:
        self.reader = reader
        self._max_list = limits.max_header_list
        self._heads: dict[bytes, RequestHead] = {}
        self.known = self._heads.get
        """Returns the head of a whole cached block, or None."""
        self._prefixes: tuple[int, ...] = ()
        self._ignored: set[bytes] = set()
        """Encoded names of fields that mean nothing to the application."""

    def find(self, block: bytes) -> tuple[RequestHead, bytes | None] | None:
        """Return the head of a block whose leading fields are cached, and the metadata after them.

        Returns None if the fields after the leading ones are invalid, need a full decoding, or are too large.
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
            start, at = at, step_over(block, at, self._ignored)
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
                self._remember_ignored(name, coded_name(block, start))
        if size > self._max_list or (has_metadata and metadata is None):
            return None
        refined = self.reader.refine_head(head, headers) if headers else head
        return None if refined is None else (refined, metadata if has_metadata else None)

    def _remember_ignored(self, name: bytes, coded: bytes) -> None:
        if coded and takes_any_value(name):
            if len(self._ignored) >= MAX_IGNORED:
                self._ignored.clear()
            self._ignored.add(coded)

    def learn(self, block: bytes) -> None:
        """Cache the head of the leading fields, which will come again, if they are a valid request by themselves."""
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
    """Check a request's header list and make a head of it; raises MalformedError."""
    check_request(headers)
    size = list_size(headers)
    head = reader.read_head(headers, size)
    head.size = size
    head.content_length = content_length(headers)
    return head


class HeaderDecoder:
    """Decodes the header blocks of one connection, with its HPACK state."""

    __slots__ = ("_blocks", "_cache", "_forbid_table", "_known", "_max_decoded", "_table", "metadata", "pure")

    def __init__(self, cache: HeadCache, limits: Limits, forbid_table: Callable[[], None]) -> None:
        """`forbid_table` is called once, to tell a peer that sends more than one block to use no table."""
        self._cache = cache
        self._known = cache.known
        self._max_decoded = limits.max_header_list * DECODE_FACTOR
        self._forbid_table = forbid_table
        self._table = DynamicTable()
        self._blocks = 0
        self.metadata: bytes | None = None
        """Metadata of the last request: a header block without a table, perhaps with some of gRPC's own fields."""
        self.pure = False
        """The peer's table has size 0 for good: a block's meaning depends on its bytes alone."""

    def close(self) -> None:
        """Drop the reference to the connection."""
        self._forbid_table = lambda: None

    def table_forbidden(self) -> None:
        """Drop the peer's table: it has acknowledged that it may use none.

        RFC 7541, section 4.2, demands a size update at the start of its next block. Some peers never send one: .NET,
        and nginx and haproxy, which add fields to the table but never refer to them. What they add is dropped; a
        reference to an entry is an error.
        """
        self._table.limit = 0
        self._table.resize(0)
        self.pure = True

    def request(self, block: bytes) -> RequestHead:
        """Decode a request's block into a head.

        Raises PeerError if it is not HPACK or much too large, MalformedError if it violates HTTP.
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
        """Check a request's trailers; raises the same errors as `request`."""
        check_trailers(self._decode(block))

    def skip(self, block: bytes) -> None:
        """Decode a block only to keep the table up to date; raises PeerError."""
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
