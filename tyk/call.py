"""The call that a hook runs for: its gRPC metadata."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

from hpack import Decoder

__all__ = ["Call", "Metadata", "current"]

Metadata = Mapping[str, str | bytes]
"""Values by names in lower case; bytes where the name ends in `-bin`."""

METADATA: Final[ContextVar[bytes | Metadata | None]] = ContextVar("METADATA", default=None)
"""The running call's metadata, or the HPACK header block (without table) that it is decoded from; None: no call."""
BINARY: Final = "-bin"
"""Suffix of the names of binary values, which travel as base64."""
_GRPC: Final = frozenset(
    {
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
"""Fields of gRPC itself. Whether they are in the block depends on their order; nearly always they are not."""
_MAX_LIST: Final = 1024 * 1024
"""In bytes: far above what the broker lets through."""
_NOTHING: Final[Metadata] = MappingProxyType({})


class Call:
    """One call of the gateway."""

    __slots__ = ("metadata",)

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        """The call's gRPC metadata, e.g. `traceparent` of a gateway that traces; read-only.

        Names are in lower case. A value is a str, or bytes where the name ends in `-bin`. Values of one name are joined
        by commas, as in gRPC; of binary values the first counts.
        """

    def __repr__(self) -> str:
        return f"Call(metadata={dict(self.metadata)!r})"


def current() -> Call:
    """Return the running call: in a hook, an event handler, or an asyncio task started by one.

    Elsewhere, in a plugin's own threads and tests, it is a call without metadata.
    """
    metadata = METADATA.get()
    if isinstance(metadata, bytes):
        metadata = read_metadata(metadata)
        METADATA.set(metadata)
    return Call(metadata or _NOTHING)


def read_metadata(block: bytes) -> Metadata:
    """Decode a header block that uses no table; binary values that are not base64 are left out."""
    texts: dict[str, str] = {}
    binaries: dict[str, bytes] = {}
    for raw_name, raw_value in Decoder(max_header_list_size=_MAX_LIST).decode(block, raw=True):
        name, value = raw_name.decode("ascii", "replace"), raw_value.decode("utf-8", "replace")
        if name in _GRPC:
            continue
        if name.endswith(BINARY):
            _add_binary(binaries, name, value)
        else:
            texts[name] = f"{texts[name]},{value}" if name in texts else value
    return MappingProxyType({**texts, **binaries})


def _add_binary(binaries: dict[str, bytes], name: str, values: str) -> None:
    first = values.partition(",")[0].strip()
    with suppress(binascii.Error, ValueError):
        # Padding may be left out.
        binaries.setdefault(name, b64decode(first + "=" * (-len(first) % 4), validate=True))
