"""The call that a hook runs for: its ids, its time, its gRPC metadata."""

import binascii
import math
import re
from base64 import b64decode
from collections.abc import Container, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from time import monotonic_ns
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

from hpack import Decoder

from tyk.errors import NoCallError
from tyk.event import TykEvent
from tyk.gateway.backend import READS
from tyk.proto.coprocess_common_pb2 import HookType

__all__ = ["Call", "Metadata", "current"]

Metadata = Mapping[str, str | bytes]
"""Values by names in lower case; bytes where the name ends in `-bin`."""

Origin: TypeAlias = tuple[bytes | Metadata | None, int, int, Mapping[str, str] | None]
"""A dispatch: its metadata, or the HPACK header block (without table) that it is decoded from; its deadline (monotonic
ns, 0: none); its attempt; its trace context, if it is sampled."""


class RunningHook(Protocol):
    """What is known of the running hook."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def bundle(self) -> str:
        """The name of its bundle."""

    @property
    def file(self) -> str:
        """The file that defines it."""


Running: TypeAlias = tuple[RunningHook, Any, int, Origin]
"""A hook that runs, its object or event, when it was called (monotonic ns), and its dispatch."""
RUNNING: Final[ContextVar[Running | None]] = ContextVar("RUNNING", default=None)
"""The running hook; None outside of hooks."""
NO_ORIGIN: Final[Origin] = None, 0, 1, None

BINARY: Final = "-bin"
"""Suffix of the names of binary values, which travel as base64."""
API_KEY: Final = "APIID"
ORG_KEY: Final = "OrgID"
"""Keys of `spec`."""
REQUEST_ID: Final = "X-Request-Id"
TRACE_PARENT: Final = "Traceparent"
"""Names of headers, as a gateway writes them."""
_TRACE_PARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""
_EVENT: Final = "Event"
REPLAYED: Final = "tykpy-replayed"
"""Names a call in its metadata: `tykpy replay` has recorded what it reads."""
_HIDDEN: Final = frozenset(
    {
        REPLAYED,
        "accept-encoding",
        "content-length",
        "content-type",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-timeout",
        "te",
        "user-agent",
    }
)
"""Also fields of gRPC itself. Whether they are in the block depends on their order; nearly always they are not."""
_MAX_LIST: Final = 1024 * 1024
"""In bytes: far above what the broker lets through."""
_NS_PER_S: Final = 1_000_000_000
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Call:
    """One call of the gateway, for one of its hooks. Read-only; texts are empty if the caller sent none."""

    __slots__ = ("_metadata", "_running")

    _now_ns = staticmethod(monotonic_ns)  # libraries that freeze time replace it in the module (freezegun)

    def __init__(self, running: Running) -> None:
        """`tyk.current` makes these."""
        self._running = running
        self._metadata: Metadata | None = None

    @property
    def bundle(self) -> str:
        """The name of the hook's bundle."""
        return self._running[0].bundle

    @property
    def hook(self) -> str:
        """The hook's name. In a chain, of the hook that runs."""
        return self._running[0].name

    @property
    def hook_type(self) -> str:
        """ "Pre", "CustomKeyCheck", "PostKeyAuth", "Post", "Response" or "Event"."""
        subject = self._running[1]
        if isinstance(subject, TykEvent):
            return _EVENT
        number = subject.hook_type
        return HookType.Name(number) if number in HookType.values() else str(number)

    @property
    def api_id(self) -> str:
        """The id of the API."""
        return str(self._running[1].spec.get(API_KEY, ""))

    @property
    def org_id(self) -> str:
        """The id of the API's organisation."""
        return str(self._running[1].spec.get(ORG_KEY, ""))

    @property
    def request_id(self) -> str:
        """The request's id: its header `X-Request-Id`, or the metadata of that name."""
        return _value_of(REQUEST_ID, self._headers, self.metadata)

    @property
    def time_left(self) -> float:
        """Seconds until the call's deadline, 0 if it has passed; infinite outside a broker."""
        deadline_ns = self._running[3][1]
        left = max(0.0, (deadline_ns - self._now_ns()) / _NS_PER_S) if deadline_ns else math.inf
        reads = READS.get()
        return left if reads is None else reads.time_left(left)

    @property
    def attempt(self) -> int:
        """1; 2 if the hook is `idempotent`, and runs again because its worker died during the first attempt."""
        return self._running[3][2]

    @property
    def trace_id(self) -> str:
        """The id of the trace that the call belongs to, in hexadecimal."""
        return self._trace[0]

    @property
    def span_id(self) -> str:
        """The id of the span that the call belongs to: the dispatch's where the broker traces, or the caller's."""
        return self._trace[1]

    @property
    def metadata(self) -> Metadata:
        """The call's gRPC metadata, e.g. `traceparent` of a gateway that traces; decoded when first used.

        Names are in lower case. A value is a str, or bytes where the name ends in `-bin`. Values of one name are joined
        by commas, as in gRPC; of binary values the first counts.
        """
        metadata = self._metadata
        if metadata is None:
            encoded = self._running[3][0]
            metadata = _decoded(encoded) if isinstance(encoded, bytes) else encoded or _NOTHING
            self._metadata = metadata
        return metadata

    @property
    def _headers(self) -> Mapping[str, str]:
        subject = self._running[1]
        headers: Mapping[str, str] = _NOTHING if isinstance(subject, TykEvent) else subject.request.headers
        return headers

    @property
    def _trace(self) -> tuple[str, str]:
        found = _TRACE_PARENT.fullmatch(
            _value_of(TRACE_PARENT, self._running[3][3] or _NOTHING, self.metadata, self._headers)
        )
        return ("", "") if found is None else (found[1], found[2])

    def __repr__(self) -> str:
        return f"Call(hook={self.hook!r}, bundle={self.bundle!r}, api_id={self.api_id!r}, attempt={self.attempt})"


def find() -> Call | None:
    """Return the running call, or None outside of hooks."""
    # It is not kept in a context variable: a finalizer may log, and before CPython 3.12 finalizers run within
    # `RUNNING.set`, which crashes if a variable of the same context is set meanwhile.
    running = RUNNING.get()
    return None if running is None else Call(running)


def current() -> Call:
    """Return the running call: in a hook or event handler, or in what runs in a copy of its context.

    asyncio tasks and `asyncio.to_thread` do; a thread of a plugin's own does not. Raises NoCallError there, and
    wherever else no hook runs.
    """
    call = find()
    if call is None:
        raise NoCallError
    return call


def read_metadata(block: bytes, hidden: Container[str] = _HIDDEN) -> Metadata:
    """Decode a header block that uses no table, without the names in `hidden`.

    Binary values that are not base64 are left out.
    """
    texts: dict[str, str] = {}
    binaries: dict[str, bytes] = {}
    for raw_name, raw_value in Decoder(max_header_list_size=_MAX_LIST).decode(block, raw=True):
        name, value = raw_name.decode("ascii", "replace"), raw_value.decode("utf-8", "replace")
        if name in hidden:
            continue
        if name.endswith(BINARY):
            _add_binary(binaries, name, value)
        else:
            texts[name] = f"{texts[name]},{value}" if name in texts else value
    return MappingProxyType({**texts, **binaries})


_decoded: Final = lru_cache(maxsize=16)(read_metadata)
"""Most calls of a connection have the same block, and each record of a log needs it."""


def _add_binary(binaries: dict[str, bytes], name: str, values: str) -> None:
    first = values.partition(",")[0].strip()
    with suppress(binascii.Error, ValueError):
        # Padding may be left out.
        binaries.setdefault(name, b64decode(first + "=" * (-len(first) % 4), validate=True))


def _value_of(name: str, *places: Mapping[str, Any]) -> str:
    """Return the first value of a header; metadata and some gateways have its name in lower case."""
    for place in places:
        value = place.get(name) or place.get(name.lower())
        if value:
            return str(value)
    return ""
