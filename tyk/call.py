"""What a hook may know of the call that it runs for, besides its arguments: the gRPC metadata."""

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
"""Of the running call: an HPACK header block that uses no table, or what it says; None: there is none."""
BINARY: Final = "-bin"
"""The end of the names of binary values, which travel as base64."""
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
"""Fields of gRPC itself. Nearly always they are not in the block; where they are depends on their order."""
_MAX_LIST: Final = 1024 * 1024
"""Bytes: far above what the broker lets through."""
_NOTHING: Final[Metadata] = MappingProxyType({})


class Call:
    """One call of the gateway."""

    __slots__ = ("metadata",)

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        """What the gateway says in the call's gRPC metadata, e.g. `traceparent` where it traces; read-only.

        Names are in lower case. A value is a str, or bytes where the name ends in `-bin`. Values of one name are joined
        by commas, as gRPC has it; of binary ones the first counts.
        """

    def __repr__(self) -> str:
        return f"Call(metadata={dict(self.metadata)!r})"


def current() -> Call:
    """Return the call that runs here: in a hook, an event handler, or an asyncio task that one of them has started.

    Elsewhere, in a plugin's own threads and tests, it is a call without metadata.
    """
    metadata = METADATA.get()
    if isinstance(metadata, bytes):
        metadata = read_metadata(metadata)
        METADATA.set(metadata)
    return Call(metadata or _NOTHING)


def read_metadata(block: bytes) -> Metadata:
    """Read a header block that uses no table; a binary value that is not base64 is left out."""
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
