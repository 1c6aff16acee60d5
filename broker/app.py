"""The broker, put together: what is opened, in which order, what runs, and how it ends."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from broker import sockets
from broker.admin import admin_methods
from broker.config import BrokerConfig
from broker.errors import BrokerError, ListenError, NoWorkerError
from broker.grpc import GrpcServer
from broker.health import ServingStatus
from broker.http2.limits import Limits
from broker.msgpackrpc import MsgpackRpcServer, RpcLimits
from broker.notify import ServiceNotifier
from broker.router import Router, RouterOptions
from broker.rpc_dispatch import dispatch_methods
from broker.sockets import ListeningSocket, SocketOptions
from broker.supervisor import PoolEvents, Supervisor

log = logging.getLogger("tykpy.broker")

MSGPACK_PREFIX: Final = "msgpack+"
"""`--listen msgpack+unix:///path` speaks MessagePack-RPC; without the prefix, gRPC."""
LOG_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class ExitCode(IntEnum):
    """How `tykpy broker` ends."""

    OK = 0
    FAULT = 1
    USAGE = 2
    NO_WORKER = 3
    CANNOT_LISTEN = 4


def run(config: BrokerConfig) -> ExitCode:
    """Serve until SIGTERM or SIGINT; says on standard error why it could not."""
    logging.basicConfig(level=config.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    try:
        with asyncio.Runner(loop_factory=_loop_factory(config.event_loop)) as runner:
            runner.run(_serve(config))
    except NoWorkerError as error:
        log.error("%s", error)
        return ExitCode.NO_WORKER
    except ListenError as error:
        log.error("%s", error)
        return ExitCode.CANNOT_LISTEN
    except BrokerError as error:
        log.error("%s", error)
        return ExitCode.FAULT
    return ExitCode.OK


async def _serve(config: BrokerConfig) -> None:
    broker = Broker(config, asyncio.get_running_loop())
    try:
        await broker.open()
        await broker.serve()
    finally:
        await broker.close()


class Broker:
    """Sockets, front ends, router and workers of one `tykpy broker`."""

    def __init__(self, config: BrokerConfig, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._loop = loop
        self._stop = asyncio.Event()
        options = RouterOptions(timeout_ns=int(config.timeout * 1e9), queue_size=config.queue_size)
        self.router = Router(loop, options)
        self.supervisor = Supervisor(loop, config, self.router, PoolEvents(self._on_ready_count, self._stop.set))
        self.grpc = GrpcServer(
            self.router, Limits(max_message=config.max_message, max_concurrent_streams=config.max_streams)
        )
        self.rpc = MsgpackRpcServer(
            dispatch_methods(self.router, lambda: self.router.hooks.description),
            RpcLimits(max_message=config.max_message, max_in_flight=config.max_streams),
        )
        self.admin = MsgpackRpcServer(admin_methods(self.router, self.supervisor))
        self._front_ends = (self.grpc, self.rpc, self.admin)
        self._notifier = ServiceNotifier.from_environment()
        self._sockets: list[ListeningSocket] = []
        self._servers: list[asyncio.Server] = []

    async def open(self) -> None:
        """Take the addresses, then start the workers: a gateway that calls meanwhile waits in the queue.

        Raises ListenError.
        """
        sockets.make_runtime_dir(self._config.runtime_dir)
        await self._listen(f"unix://{self._config.admin_socket}", self.admin.protocol_factory, SocketOptions())
        options = SocketOptions(self._config.socket_mode, self._config.socket_group)
        for address in self._config.addresses:
            rpc = address.startswith(MSGPACK_PREFIX)
            front_end = self.rpc if rpc else self.grpc
            await self._listen(address.removeprefix(MSGPACK_PREFIX), front_end.protocol_factory, options)
            log.info("listening on %s", address)
        self.supervisor.start()

    async def serve(self) -> None:
        """Serve until a signal says stop; finish what runs within the grace.

        Raises NoWorkerError when no worker can ever start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        await self._stop.wait()
        if self.supervisor.hopeless is not None:
            raise self.supervisor.hopeless
        await self._drain()

    async def close(self) -> None:
        """End the workers and leave nothing behind; works after any part of `open`."""
        for front_end in self._front_ends:
            front_end.abort()
        await self.supervisor.stop()
        for server in self._servers:
            server.close()
        for listening in self._sockets:
            listening.close()
        self._notifier.close()
        log.info("stopped")

    async def _listen(self, address: str, factory: Callable[[], asyncio.Protocol], options: SocketOptions) -> None:
        listening = sockets.listen(address, options)
        self._sockets.append(listening)
        create = self._loop.create_unix_server if listening.is_unix else self._loop.create_server
        self._servers.append(await create(factory, sock=listening.socket))

    async def _drain(self) -> None:
        # Nothing new is taken, the peers are told to go elsewhere, and what runs is waited for.
        log.info("draining: %d dispatches under way", self.router.under_way)
        self._notifier.send("STOPPING=1")
        self.router.draining = True
        self.grpc.health.set(ServingStatus.NOT_SERVING)
        for front_end in self._front_ends:
            front_end.drain()
        closed = asyncio.gather(self.router.idle(), self.grpc.closed(), self.rpc.closed())
        try:
            await asyncio.wait_for(closed, self._config.grace)
        except TimeoutError:
            log.warning("%d dispatches did not finish within --grace %g s", self.router.under_way, self._config.grace)

    def _on_ready_count(self, ready: int) -> None:
        wanted = self._config.workers
        self.grpc.health.set(ServingStatus.SERVING if ready else ServingStatus.NOT_SERVING)
        state = ("READY=1",) if ready else ()
        self._notifier.send(*state, f"STATUS={ready} of {wanted} workers ready")
        if ready == wanted:
            log.info("%d workers ready", ready)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop
