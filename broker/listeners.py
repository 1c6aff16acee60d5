"""The sockets of one broker, from taking their addresses to giving them up.

Two steps: addresses are taken while we may still be root, and without an event loop; connections are accepted later.
In an upgrade the old program's sockets are used, and stay its own until it has been told that we serve.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

from broker import sockets
from broker.config import BrokerConfig
from broker.handover import Handover
from broker.identity import Identity
from broker.runtime_folder import make_runtime_dir
from broker.sockets import ListeningSocket, SocketOptions

log = logging.getLogger("tykpy.broker")

LEAVE_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""The files of Unix sockets are removed by `ListeningSocket`, which knows whose they are."""
MSGPACK_PREFIX: Final = "msgpack+"
"""`--listen msgpack+unix:///path` speaks MessagePack-RPC; without the prefix, gRPC."""

Factory = Callable[[], asyncio.BaseProtocol]


def socket_options(config: BrokerConfig) -> SocketOptions:
    """The permissions of the sockets that gateways call. Raises ConfigError."""
    identity = Identity.wanted(config)
    if identity is None:
        return SocketOptions(config.socket_mode, config.socket_group)
    identity.check()
    return SocketOptions(config.socket_mode, config.socket_group or str(identity.gid), identity.uid)


class Listeners:
    """Every listening socket, and the event loop's servers on them."""

    def __init__(self, handover: Handover | None) -> None:
        self.handover = handover
        """From the program whose place this one is to take, until it has been told that it can go."""
        self.handed_over = False
        """This program's own place is taken: the sockets' files are its successor's."""
        self.sockets: list[ListeningSocket] = []
        self._servers: list[asyncio.Server] = []
        self._borrowed: list[ListeningSocket] = []
        """The old program's, as long as they are its own."""

    @classmethod
    def open(cls, config: BrokerConfig) -> "Listeners":
        """Take all addresses: the admin socket first, then those that gateways call.

        Raises ConfigError, ListenError, UpgradeError; nothing is left open then.
        """
        listeners = cls(Handover.from_environment())
        try:
            options = socket_options(config)
            make_runtime_dir(config.runtime_dir, options)
            listeners._take(config.admin_address, SocketOptions(owner=options.owner))
            for address in config.addresses:
                listeners._take(address.removeprefix(MSGPACK_PREFIX), options)
        except BaseException:
            listeners.close()
            raise
        return listeners

    async def serve(self, admin: Factory, grpc: Factory, rpc: Factory, addresses: tuple[str, ...]) -> None:
        """Accept connections, each for its front end; in an upgrade not before `take_over`."""
        factories = [admin, *(rpc if address.startswith(MSGPACK_PREFIX) else grpc for address in addresses)]
        for listening, factory in zip(self.sockets, factories, strict=True):
            self._servers.append(await self._server(listening, factory))
        for address, listening in zip(addresses, self.sockets[1:], strict=True):
            protocol = MSGPACK_PREFIX if address.startswith(MSGPACK_PREFIX) else ""
            log.info("listening on %s%s", protocol, listening.address)

    async def take_over(self) -> None:
        """Accept connections on the old program's sockets, which are ours from now on, and tell it to go."""
        for server in self._servers:
            await server.start_serving()
        if self.handover is not None:
            self.handover.say_ready()
        self.handover = None
        self._borrowed.clear()

    def stop_accepting(self) -> None:
        """Accept nothing more; connections stay."""
        for server in self._servers:
            server.close()

    def close(self) -> None:
        """Give everything up: what is another program's is left to it. Works after any part of `open` and `serve`."""
        if self.handover is not None:
            self.handover.close()
        self.stop_accepting()
        for listening in self.sockets:
            listening.release() if self.handed_over or listening in self._borrowed else listening.close()

    def _take(self, address: str, options: SocketOptions) -> None:
        inherited = self.handover.take(address) if self.handover is not None else None
        if inherited is not None:
            self._borrowed.append(inherited)
        self.sockets.append(inherited or sockets.listen(address, options))

    async def _server(self, listening: ListeningSocket, factory: Factory) -> asyncio.Server:
        loop, accepts = asyncio.get_running_loop(), self.handover is None
        if listening.is_unix:
            return await loop.create_unix_server(factory, sock=listening.socket, start_serving=accepts, **LEAVE_FILE)
        return await loop.create_server(factory, sock=listening.socket, start_serving=accepts)
