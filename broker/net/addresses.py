"""Parse addresses of options and commands: `unix:///path`, `tcp://host:port` and `tls://host:port`."""

import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tykpy.broker.errors import AddressError

MSGPACK_PREFIX: Final = "msgpack+"
"""Start of addresses that speak MessagePack-RPC (`msgpack+unix:///path`); without it they speak gRPC."""
ADMIN_SOCKET: Final = "admin.sock"
"""Name of the admin socket in the runtime folder."""
MAX_UNIX_PATH: Final = 107
"""Longest path of a Unix socket, in bytes (Linux's sun_path without its zero)."""
_TCP: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:]*)):(?P<port>\d{1,5})", re.ASCII)


def parse_unix(address: str) -> Path:
    """Return the path of `unix:///path` or `unix:path`; raises AddressError."""
    path = address.removeprefix("unix:")
    path = path.removeprefix("//") if path.startswith("//") else path
    if not path or "\0" in path:
        raise AddressError(f"{address!r}: no path; write unix:///path")
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise AddressError(f"{address}: the path is longer than {MAX_UNIX_PATH} bytes")
    return Path(path)


def parse_tcp(address: str, scheme: str = "tcp") -> tuple[str, int]:
    """Return host and port of `tcp://host:port`, or of another scheme; raises AddressError."""
    match = _TCP.fullmatch(address.removeprefix(f"{scheme}://"))
    if not address.startswith(f"{scheme}://") or match is None or int(match["port"]) > 65_535:
        raise AddressError(f"{address!r} is not an address: write unix:///path, tcp://host:port or tls://host:port")
    try:
        if match["v6"]:
            ipaddress.IPv6Address(match["v6"])
        else:
            match["host"].encode("idna")
    except ValueError as error:
        raise AddressError(f"{address!r} names no host: {error}") from error
    return match["v6"] or match["host"], int(match["port"])


def scheme_of(address: str) -> str:
    """Return the scheme of an address other than a Unix socket's."""
    return "tls" if address.startswith("tls://") else "tcp"


def name_of(address: str) -> str:
    """Return the path or `host:port` of an address, like a socket's own name. Raises AddressError."""
    if address.startswith("unix:"):
        return os.path.abspath(parse_unix(address))
    host, port = parse_tcp(address, scheme_of(address))
    return f"{host}:{port}"


def check_listen(addresses: Sequence[str]) -> None:
    """Raise AddressError if one is not an address or is given twice; port 0 is a different one each time."""
    names = set()
    for address in addresses:
        name = name_of(address.removeprefix(MSGPACK_PREFIX))
        if name in names and not name.endswith(":0"):
            raise AddressError(f"{address} is given twice, or is the broker's own admin socket")
        names.add(name)
