"""The listening sockets of one broker.

Addresses are taken first, while the process may still be root and without an event loop; connections are accepted
later. In an upgrade the sockets are the old program's, and remain its own until it is told that this one serves.
"""

import asyncio
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, NamedTuple

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ConfigError, ListenError
from tykpy.broker.host.privileges import TargetUser
from tykpy.broker.host.upgrade import Handover
from tykpy.broker.net import sockets, tls
from tykpy.broker.net.addresses import MSGPACK_PREFIX
from tykpy.broker.net.runtime_folder import make_runtime_dir
from tykpy.broker.net.sockets import ListeningSocket, SocketOptions

log = logging.getLogger("tykpy.broker")

LEAVE_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""`ListeningSocket` removes the files of Unix sockets: it knows whose they are."""

Factory = Callable[[], asyncio.BaseProtocol]


def socket_options(config: BrokerConfig) -> SocketOptions:
    """Return the permissions of the sockets that gateways call. Raises ConfigError."""
    identity = TargetUser.wanted(config)
    if identity is None:
        return SocketOptions(config.socket_mode, config.socket_group)
    identity.check()
    return SocketOptions(config.socket_mode, config.socket_group or str(identity.gid), identity.uid)


class _FrontEnd(NamedTuple):
    """What serves the connections of a socket."""

    factory: Factory
    protocols: tuple[str, ...]
    """ALPN names for TLS peers; none: any."""


class Listeners:
    """Every listening socket, and the event loop's servers on them."""

    def __init__(self, config: BrokerConfig, handover: Handover | None) -> None:
        self._config = config
        self.handover = handover
        """The connection to the program that this one replaces, until that one is told to go."""
        self.handed_over = False
        """This program has been replaced: the sockets' files are its successor's."""
        self.sockets: list[ListeningSocket] = []
        """The admin socket, then those that gateways call."""
        self.metrics: ListeningSocket | None = None
        """The socket of --metrics, which another thread serves."""
        self._servers: list[asyncio.Server] = []
        """One for each socket, in the same order; empty before `serve` and after `stop_accepting`."""
        self._front_ends: list[_FrontEnd] = []
        """One for each socket, in the same order."""
        self._borrowed: list[ListeningSocket] = []
        """The old program's sockets, as long as it owns them."""

    @classmethod
    def open(cls, config: BrokerConfig) -> "Listeners":
        """Take all addresses: the admin socket first, then those that gateways call.

        Raises ConfigError, ListenError and UpgradeError, and leaves nothing open then.
        """
        listeners = cls(config, Handover.from_environment())
        try:
            options = socket_options(config)
            make_runtime_dir(config.runtime_dir, options)
            listeners._take_folder(SocketOptions(owner=options.owner))
            for address in config.addresses:
                listeners._take(address.removeprefix(MSGPACK_PREFIX), options)
            for address in config.metrics_addresses:
                listeners.metrics = listeners._open(address, options)
        except BaseException:
            listeners.close()
            raise
        return listeners

    def _take_folder(self, options: SocketOptions) -> None:
        """Take the admin socket, which only one broker of a runtime folder can have."""
        try:
            self._take(self._config.admin_address, options)
        except ListenError as error:
            if not error.owner:
                raise
            folder = self._config.runtime_dir
            message = f"{error}: only one broker can use --runtime-dir {folder}, give this one another"
            raise ListenError(message, error.owner) from error

    async def serve(self, admin: Factory, grpc: Factory, rpc: Factory) -> None:
        """Accept connections for each front end; in an upgrade not before `take_over`.

        Raises ConfigError if a certificate cannot be used.
        """
        front_ends = [
            _FrontEnd(rpc, ()) if address.startswith(MSGPACK_PREFIX) else _FrontEnd(grpc, tls.HTTP2)
            for address in self._config.addresses
        ]
        self._front_ends = [_FrontEnd(admin, ()), *front_ends]
        self._servers = await self._open_servers(range(len(self.sockets)))
        for address, listening in zip(self._config.addresses, self.sockets[1:], strict=True):
            protocol = MSGPACK_PREFIX if address.startswith(MSGPACK_PREFIX) else ""
            log.info("listening on %s%s", protocol, listening.address)
            for warning in warnings_of(listening, self._config):
                log.warning("%s", warning)
        if self.metrics is not None and not self.metrics.is_unix and not _is_loopback(self.metrics.socket):
            log.warning("%s: whoever reaches this address can read metrics", self.metrics.address)

    async def renew_certificates(self) -> None:
        """Read the files of --tls-... again, for new connections; existing ones are not touched.

        Unusable files are logged and change nothing.
        """
        places = [
            at for at, one in enumerate(self.sockets) if one.address.startswith(tls.PREFIX) and one.socket.fileno() >= 0
        ]
        if not places or not self._servers:
            return
        try:
            fresh = await self._open_servers(places)
        except ConfigError as error:
            log.error("certificates are not renewed, those in use stay: %s", error)
            return
        if not self._servers:  # meanwhile `stop_accepting` was called
            for server in fresh:
                server.close()
            return
        for at, server in zip(places, fresh, strict=True):
            # Both had the socket for a moment, so no connection was refused.
            self._servers[at].close()
            self._servers[at] = server
        log.info("certificates are renewed")

    async def take_over(self) -> None:
        """Accept connections on the old program's sockets, own them from now on, and tell it to go."""
        for server in self._servers:
            await server.start_serving()
        if self.handover is not None:
            self.handover.say_ready()
        self.handover = None
        self._borrowed.clear()

    def refuse_tcp(self) -> None:
        """Refuse new TCP connections; existing ones stay.

        A proxy that is refused sends its calls to another broker, and not to this one, which rejects them. Unix sockets
        still accept: a gateway that is refused waits longer and longer before it dials again.
        """
        for listening, server in zip(self.sockets, self._servers, strict=True):
            if not listening.is_unix:
                server.close()
                listening.socket.close()

    def stop_accepting(self) -> None:
        """Accept no more connections; existing ones stay."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for listening in self.sockets:
            listening.socket.close()

    def close(self) -> None:
        """Close everything and leave what belongs to another program; works after any part of `open` and `serve`."""
        if self.handover is not None:
            self.handover.close()
        self.stop_accepting()
        for listening in self.all:
            listening.release() if self.handed_over or listening in self._borrowed else listening.close()

    @property
    def all(self) -> list[ListeningSocket]:
        """All sockets."""
        return self.sockets if self.metrics is None else [*self.sockets, self.metrics]

    def _take(self, address: str, options: SocketOptions) -> None:
        self.sockets.append(self._open(address, options))

    def _open(self, address: str, options: SocketOptions) -> ListeningSocket:
        inherited = self.handover.take(address) if self.handover is not None else None
        if inherited is not None:
            self._borrowed.append(inherited)
        return inherited or sockets.listen(address, options)

    async def _open_servers(self, places: Collection[int]) -> list[asyncio.Server]:
        """Return servers for some of the sockets; errors in any of them are found before the first is opened."""
        options = {
            at: tls.server_options(self._config, self._front_ends[at].protocols)
            for at in places
            if self.sockets[at].address.startswith(tls.PREFIX)
        }
        return [await self._server(self.sockets[at], self._front_ends[at].factory, options.get(at)) for at in places]

    async def _server(
        self, listening: ListeningSocket, factory: Factory, options: dict[str, Any] | None
    ) -> asyncio.Server:
        loop, accepts = asyncio.get_running_loop(), self.handover is None
        sock, backlog = listening.socket, sockets.BACKLOG  # the event loop's own would replace the socket's
        if listening.is_unix:
            return await loop.create_unix_server(
                factory, sock=sock, start_serving=accepts, backlog=backlog, **LEAVE_FILE
            )
        if options is None:
            return await loop.create_server(factory, sock=sock, start_serving=accepts, backlog=backlog)
        # A server closes its socket at its end; this one may be followed by another.
        return await loop.create_server(factory, sock=sock.dup(), start_serving=accepts, backlog=backlog, **options)


def warnings_of(listening: ListeningSocket, config: BrokerConfig) -> Iterator[str]:
    """Yield warnings about an address that anyone can reach, and what they could do."""
    if listening.is_unix:
        return
    if config.allow_user or config.allow_group:
        yield f"{listening.address}: --allow-user and --allow-group are about Unix sockets, not about this"
    if _is_loopback(listening.socket):
        return
    if not listening.address.startswith("tls://"):
        yield (
            f"{listening.address}: whoever reaches this address can call hooks, and whoever is in between can read and "
            "change what passes; use tls:// with --tls-client-ca, or a Unix socket"
        )
    elif config.tls_client_ca is None:
        yield f"{listening.address}: whoever reaches this address can call hooks; --tls-client-ca says who may"


def _is_loopback(sock: socket.socket) -> bool:
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
