"""Parse Redis URLs; no message shows their password.

redis://[user:password@]host[:port][/db]            rediss:// the same with TLS
unix://[user:password@]/path/to/socket[?db=N]
redis+sentinel://[user:password@]host[:port],host[:port].../service[/db]   rediss+sentinel://
redis+cluster://[user:password@]host[:port],host[:port]...                 rediss+cluster://
"""

import os
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from tykpy.redisclient.errors import RedisURLError

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})
"""Taken from the query and handed to redis-py."""

_TLS_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""Made absolute at once: plugins may change the working directory before the first connection."""

_QUERY: Final = TLS_OPTIONS | {"db", "username", "password", "sentinel_username", "sentinel_password"}

_URL: Final = re.compile(r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^@/?#]*)@)?(?P<rest>[^@?#]*)(?:\?(?P<query>[^@#]*))?")
_NODE: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:,]+)(?::(?P<port>[0-9]{1,5}))?")


class Topology(Enum):
    """How Redis is reached."""

    TCP = "redis"
    UNIX = "unix"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


class Node(NamedTuple):
    """One server's address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Address of a Redis, and how to log in."""

    topology: Topology
    display: str
    """The URL without user, password and query, for messages."""
    nodes: tuple[Node, ...] = ()
    path: str = ""
    """The socket of UNIX."""
    service: str = ""
    """The name that SENTINEL's servers know the master by."""
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls_options: tuple[tuple[str, str], ...] = ()

    def without_secrets(self, text: str) -> str:
        """Return `text` with three stars for each password."""
        for secret in filter(None, (self.password, self.sentinel_password)):
            text = text.replace(secret, "***")
        return text


def parse_redis_url(url: str) -> RedisAddress:
    """Read a URL.

    Raises RedisURLError, which names what is wrong but never the password.
    """
    display = redact(url)
    match = _URL.fullmatch(url)
    if match is None or not _is_text(url):
        raise RedisURLError(
            f"{display}: not a Redis URL; special characters of a password are percent-encoded (%40 for @)"
        )
    scheme = match["scheme"]
    topology, tls = _topology(scheme, display)
    query = _query(match["query"] or "", display)
    location = _location(topology, unquote(match["rest"]), query.get("db"), display)
    username, _, password = (match["user"] or "").partition(":")
    return RedisAddress(
        topology,
        display,
        tls=tls,
        username=unquote(username) or query.get("username"),
        password=unquote(password) or query.get("password"),
        sentinel_username=query.get("sentinel_username"),
        sentinel_password=query.get("sentinel_password"),
        tls_options=tuple((name, _absolute(name, value)) for name, value in query.items() if name in TLS_OPTIONS),
        nodes=location.nodes,
        path=location.path,
        service=location.service,
        db=location.db,
    )


def redact(url: str) -> str:
    """Return a URL without user, password and query, however malformed it is.

    Everything before the last `@` may be a password with characters that should have been encoded, and the whole
    URL may be if a `?` comes before that `@`.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "(a URL without ://)"
    user, at, location = rest.rpartition("@")
    if "?" in user:
        return f"{scheme}://***"
    return f"{scheme}://{'***@' if at and user else ''}{re.split('[?#]', location)[0]}"


def _is_text(url: str) -> bool:
    """Return whether the input was valid text; invalid bytes arrive as surrogates."""
    try:
        return bool(url.encode())
    except UnicodeEncodeError:
        return False


def _absolute(name: str, value: str) -> str:
    return os.path.abspath(value) if name in _TLS_FILES else value


class _Location(NamedTuple):
    nodes: tuple[Node, ...]
    path: str
    service: str
    db: int


def _topology(scheme: str, display: str) -> tuple[Topology, bool]:
    tls = scheme.startswith("rediss")
    try:
        return Topology(scheme.replace("rediss", "redis", 1)), tls
    except ValueError:
        known = "redis, rediss, unix, redis+sentinel, rediss+sentinel, redis+cluster, rediss+cluster"
        raise RedisURLError(f"{display}: unknown scheme {scheme!r}; there is {known}") from None


def _query(text: str, display: str) -> dict[str, str]:
    query = dict(parse_qsl(text, keep_blank_values=True))
    unknown = sorted(query.keys() - _QUERY)
    if unknown:
        raise RedisURLError(
            f"{display}: unknown option {', '.join(unknown)} after the ?; there is {', '.join(sorted(_QUERY))}"
        )
    return query


def _location(topology: Topology, rest: str, db: str | None, display: str) -> _Location:
    if topology is Topology.UNIX:
        if not rest.startswith("/"):
            raise RedisURLError(f"{display}: a unix URL has three slashes, as in unix:///run/redis.sock")
        return _Location((), rest, "", _db(db, display))
    hosts, *path = rest.rstrip("/").split("/")
    service = ""
    if topology is Topology.SENTINEL:
        if not path:
            raise RedisURLError(f"{display}: the service's name is missing, as in .../mymaster/0")
        service = path.pop(0)
    if len(path) > 1:
        raise RedisURLError(f"{display}: {'/'.join(path)!r} is too long for a database's number")
    number = _db(path[0] if path else db, display)
    if topology is Topology.CLUSTER and number:
        raise RedisURLError(f"{display}: a Redis Cluster has no databases, only 0")
    return _Location(_nodes(topology, hosts, display), "", service, number)


def _nodes(topology: Topology, hosts: str, display: str) -> tuple[Node, ...]:
    port = SENTINEL_PORT if topology is Topology.SENTINEL else REDIS_PORT
    matches = [_NODE.fullmatch(host) for host in (hosts or "localhost").split(",")]
    nodes = tuple(Node(match["host"].strip("[]"), int(match["port"] or port)) for match in matches if match)
    if len(nodes) != len(matches) or not all(map(_is_possible, nodes)):
        raise RedisURLError(f"{display}: a host is written host or host:port, with a port from 1 to 65535")
    if topology is Topology.TCP and len(nodes) > 1:
        raise RedisURLError(f"{display}: several hosts need redis+sentinel:// or redis+cluster://")
    return nodes


def _is_possible(node: Node) -> bool:
    try:
        # The name lookup encodes the host first, and would raise at every call.
        node.host.encode("idna")
    except UnicodeError:
        return False
    return 0 < node.port < 2**16


def _db(text: str | None, display: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise RedisURLError(f"{display}: a database is a number, not {text!r}")
    return int(text)
