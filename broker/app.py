"""The broker, put together: what is opened, in which order, what runs, and how it ends."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from broker import sockets
from broker.admin import Parts, admin_methods
from broker.config import BrokerConfig
from broker.errors import BrokerError, ConfigError, ListenError, NoWorkerError, UpgradeError
from broker.events.events import Events, open_sinks
from broker.grpc.health import ServingStatus
from broker.grpc.server import GrpcServer
from broker.handover import Handover
from broker.http2.limits import Limits
from broker.msgpackrpc.methods import dispatch_methods
from broker.msgpackrpc.server import MsgpackRpcServer, RpcLimits
from broker.notify import ServiceNotifier
from broker.pool import content
from broker.pool.content_watch import ContentWatch
from broker.pool.recycling import Recycler
from broker.pool.reload import Reloader
from broker.pool.supervisor import PoolEvents, Supervisor
from broker.routing.router import Router, RouterOptions
from broker.sockets import ListeningSocket, SocketOptions
from broker.upgrade import Upgrade

log = logging.getLogger("tykpy.broker")

LEAVE_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""The files of Unix sockets are removed by `ListeningSocket`, which knows whose they are."""
MSGPACK_PREFIX: Final = "msgpack+"
"""`--listen msgpack+unix:///path` speaks MessagePack-RPC; without the prefix, gRPC."""
ACCEPT_SETTLING: Final = 0.05
"""Seconds until the connections that were being accepted when we stopped accepting are there, and can be told to go."""
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
        options = RouterOptions(
            timeout_ns=int(config.timeout * 1e9),
            queue_size=config.queue_size,
            breaker_cooldown=config.breaker_cooldown,
        )
        self.router = Router(loop, options)
        self.events = Events(self.router, open_sinks(config))
        self.supervisor = Supervisor(
            loop, config, self.router, PoolEvents(self._on_ready_count, self._stop.set, self.events.receive)
        )
        self.recycler = Recycler(loop, config, self.supervisor)
        self.reloader = Reloader(loop, config, self.supervisor, self.router)
        self.grpc = GrpcServer(
            self.router, Limits(max_message=config.max_message, max_concurrent_streams=config.max_streams)
        )
        self.rpc = MsgpackRpcServer(
            dispatch_methods(self.router, lambda: self.router.hooks.description),
            RpcLimits(max_message=config.max_message, max_in_flight=config.max_streams),
        )
        self.upgrade = Upgrade(loop, config.ready_timeout, self._on_upgraded)
        parts = Parts(self.router, self.supervisor, self.events, self.reloader, self.recycler, self.upgrade)
        self.admin = MsgpackRpcServer(admin_methods(parts))
        self._front_ends = (self.grpc, self.rpc, self.admin)
        self._notifier = ServiceNotifier.from_environment()
        self.reloader.on_start, self.reloader.on_end = self._notifier.reloading, self._notifier.reloaded
        self._sockets: list[ListeningSocket] = []
        self._servers: list[asyncio.Server] = []
        self._handover: Handover | None = None
        """From the program whose place this one is to take."""
        self._borrowed: list[ListeningSocket] = []
        """That program's sockets, as long as they are its own."""
        self._handed_over = False
        """This program's place is taken."""
        self._all_ready = asyncio.Event()

    async def open(self) -> None:
        """Take the addresses, then start the workers: a gateway that calls meanwhile waits in the queue.

        In an upgrade nothing is accepted before `serve`. Raises ListenError, UpgradeError.
        """
        self._take_signals()
        self._handover = Handover.from_environment()
        sockets.make_runtime_dir(self._config.runtime_dir)
        await self._listen(f"unix://{self._config.admin_socket}", self.admin.protocol_factory, SocketOptions())
        options = SocketOptions(self._config.socket_mode, self._config.socket_group)
        for address in self._config.addresses:
            rpc = address.startswith(MSGPACK_PREFIX)
            front_end = self.rpc if rpc else self.grpc
            await self._listen(address.removeprefix(MSGPACK_PREFIX), front_end.protocol_factory, options)
            log.info("listening on %s", address)
        self.supervisor.start()
        self.recycler.start()
        if self._config.reload and self._config.bundles is not None:
            ContentWatch(self._loop, self._config.bundles, self.reloader.request).start()

    async def serve(self) -> None:
        """Serve until a signal says stop; finish what runs within the grace.

        Raises NoWorkerError when no worker can ever start, UpgradeError when what was served before would break.
        """
        if self._handover is not None:
            await self._take_over(self._handover)
        await self._stop.wait()
        if self.supervisor.hopeless is not None:
            raise self.supervisor.hopeless
        await self._drain()

    async def close(self) -> None:
        """End the workers and leave nothing behind; works after any part of `open`."""
        self.upgrade.close()
        if self._handover is not None:
            self._handover.close()
        for server in self._servers:
            server.close()
        for front_end in self._front_ends:
            front_end.abort()
        await self.supervisor.stop()
        await self.events.close(self._config.event_grace)
        for listening in self._sockets:
            listening.release() if self._handed_over or listening in self._borrowed else listening.close()
        self._notifier.close()
        log.info("stopped")

    def _take_signals(self) -> None:
        actions: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGTERM: self._stop.set,
            signal.SIGINT: self._stop.set,
            signal.SIGHUP: self.reloader.request,
            signal.SIGUSR2: self._start_upgrade,
            signal.SIGTTIN: lambda: self._scale_by(1),
            signal.SIGTTOU: lambda: self._scale_by(-1),
        }
        for number, action in actions.items():
            self._loop.add_signal_handler(number, action)

    def _scale_by(self, workers: int) -> None:
        try:
            self.supervisor.scale(self.supervisor.wanted + workers)
        except ConfigError as error:
            log.warning("not scaled: %s", error)

    async def _listen(self, address: str, factory: Callable[[], asyncio.Protocol], options: SocketOptions) -> None:
        inherited = self._handover.take(address) if self._handover is not None else None
        if inherited is not None:
            self._borrowed.append(inherited)
        listening = inherited or sockets.listen(address, options)
        self._sockets.append(listening)
        accepts = self._handover is None
        if listening.is_unix:
            server = await self._loop.create_unix_server(
                factory, sock=listening.socket, start_serving=accepts, **LEAVE_FILE
            )
        else:
            server = await self._loop.create_server(factory, sock=listening.socket, start_serving=accepts)
        self._servers.append(server)

    def _start_upgrade(self) -> None:
        self.upgrade.start(self._sockets, self.supervisor.served)

    def _on_upgraded(self, pid: int) -> None:
        # The service manager follows the new process; it says itself how it is.
        self._notifier.send(f"MAINPID={pid}")
        self._notifier.close()
        self._handed_over = True
        self._stop.set()

    async def _take_over(self, handover: Handover) -> None:
        """Once all workers are ready, and serve what the old program serves: accept, and tell it to go."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._all_ready, self._stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._stop.is_set():
            return
        damage = content.damage([handover.baseline], self.supervisor.served)
        if damage:
            raise UpgradeError("what the old program serves would break: " + "; ".join(damage))
        for server in self._servers:
            await server.start_serving()
        handover.say_ready()
        self._handover = None
        self._borrowed.clear()

    async def _drain(self) -> None:
        # Nothing new is taken, the peers are told to go elsewhere, and what runs is waited for.
        log.info("draining: %d dispatches under way", self.router.under_way)
        if self._handed_over:
            # What callers send before they have read that they are to go is still answered.
            for server in self._servers:
                server.close()
            await asyncio.sleep(ACCEPT_SETTLING)
        else:
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
        wanted = self.supervisor.wanted
        self.grpc.health.set(ServingStatus.SERVING if ready else ServingStatus.NOT_SERVING)
        state = ("READY=1",) if ready else ()
        self._notifier.send(*state, f"STATUS={ready} of {wanted} workers ready")
        if ready == wanted:
            self._all_ready.set()
            log.info("%d workers ready", ready)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop
