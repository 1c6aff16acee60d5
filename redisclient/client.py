"""Build the redis-py client for an address, with timeouts everywhere and without redis-py's own retries."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol, cast

import redis
import redis.exceptions
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from tykpy.redisclient.address import RedisAddress, Topology

OUTAGES: Final = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ClusterError,
    redis.exceptions.RedisClusterException,
    OSError,
)
"""Redis cannot be used at all; any other error is about the one command."""

MAX_TOLD: Final = 200
"""Characters of an error that a log line repeats."""


class Closable(Protocol):
    """An object of redis-py that holds connections."""

    def close(self) -> None:
        """Close the connections."""


class Pipeline(Protocol):
    """The part of redis-py's pipelines that is used."""

    def xadd(self, name: str, fields: dict[str, str], *, maxlen: int, approximate: bool) -> object:
        """XADD, with MAXLEN."""

    def execute_command(self, *line: Any) -> object:
        """Add a command, as its words."""

    def execute(self) -> list[Any]:
        """Send the commands and return their answers; raise the first error, if any."""


class Client(Closable, Protocol):
    """The part of redis-py's clients that is used."""

    def get(self, name: bytes) -> bytes | None:
        """GET."""

    def set(self, name: bytes, value: bytes, *, px: int | None = None) -> object:
        """SET, with PX if a time to live in milliseconds is given."""

    def execute_command(self, *line: Any) -> Any:
        """Send a command, as its words."""

    def pipeline(self, transaction: bool) -> Pipeline:
        """Commands to send together."""


class Connected(NamedTuple):
    """A client, together with the clients that it uses itself and does not close."""

    client: Client
    others: tuple[Closable, ...] = ()

    def close(self) -> None:
        """Close the connections of all of them."""
        for closable in (self.client, *self.others):
            closable.close()


def connect(address: RedisAddress, socket_s: float) -> Connected:
    """Return a client whose socket waits at most `socket_s` seconds for each step.

    Raises redis-py's errors: a cluster is asked for its nodes at once, while other clients connect when used.
    """
    options = _options(address, socket_s)
    if address.topology is Topology.CLUSTER:
        return Connected(_cluster(address, options))
    options.update(db=address.db, retry=_retry())
    if address.topology is Topology.SENTINEL:
        return _sentinel(address, options)
    if address.topology is Topology.UNIX:
        place: dict[str, Any] = {"unix_socket_path": address.path}
    else:
        place = address.nodes[0]._asdict()
    return Connected(cast(Client, redis.Redis(**place, **options)))


def told(address: RedisAddress, error: Exception) -> str:
    """Return the text of an error without secrets: some errors of redis-py print a whole client, with its password."""
    text = address.without_secrets(f"{type(error).__name__}: {error}").rstrip(".")
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}..."


def _retry() -> Retry:
    """Retry once if a connection turns out to be closed, as after a restart of Redis, but not after a timeout."""
    return Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))


def _options(address: RedisAddress, socket_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "socket_timeout": socket_s,
        "socket_connect_timeout": socket_s,
        # RESP2 saves one round trip when connecting, and every Redis speaks it.
        "protocol": 2,
    }
    if address.tls:
        options.update(ssl=True, **_tls(address))
    return options


def _tls(address: RedisAddress) -> dict[str, object]:
    options: dict[str, object] = dict(address.tls_options)
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"] not in ("0", "no", "false", "False")
    return options


def _cluster(address: RedisAddress, options: dict[str, Any]) -> Client:
    nodes = [ClusterNode(node.host, node.port) for node in address.nodes]  # type: ignore[no-untyped-call]
    client: list[Any] = []
    with _told_as_outage(client):
        client.append(RedisCluster(startup_nodes=nodes, retry=_retry(), **options))
    return cast(Client, _Cluster(client[0]))


class _Cluster:
    """A cluster's client, or a pipeline of it, that raises clear errors while no server has any slots."""

    def __init__(self, client: Any, pipeline: Any = None) -> None:
        self._client = client
        self._target = client if pipeline is None else pipeline

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with _told_as_outage([self._client]):
                return method(*arguments, **options)

        return call

    def pipeline(self, transaction: bool) -> Pipeline:
        """Commands to send together."""
        return cast(Pipeline, _Cluster(self._client, self._client.pipeline(transaction=transaction)))


@contextmanager
def _told_as_outage(client: Sequence[Any]) -> Iterator[None]:
    """Turn what redis-py 5 raises while no server has any slots into a ClusterError; `client`: if there is one."""
    try:
        yield
    except (LookupError, AttributeError) as error:
        if client and client[0].nodes_manager.slots_cache:
            raise
        raise redis.exceptions.ClusterError("no server has any slots") from error


def _sentinel(address: RedisAddress, options: dict[str, Any]) -> Connected:
    of_sentinels = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl"))}
    of_sentinels.update(
        username=address.sentinel_username, password=address.sentinel_password, retry=_retry(), protocol=2
    )
    sentinel = Sentinel(address.nodes, sentinel_kwargs=of_sentinels, **options)  # type: ignore[no-untyped-call]
    master = sentinel.master_for(address.service)  # type: ignore[no-untyped-call]
    return Connected(cast(Client, master), tuple(sentinel.sentinels))
