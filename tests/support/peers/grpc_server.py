"""A gRPC front end on an event loop of its own thread, with an `EchoDispatcher` behind it, for blocking peers."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from tests.support.gateway.echo_dispatcher import EchoDispatcher
from tykpy.broker.grpc.server import GrpcServer
from tykpy.broker.http2.limits import Limits
from tykpy.broker.net.sockets import listen

PATIENCE = 30.0
"""Seconds until a wait fails."""
TURNS_TO_CONNECT = 4
"""Turns of the loop from an accepted connection to a protocol that knows of it."""


class EchoServer:
    """`with EchoServer(address) as server`: serves until the end of the block."""

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:0",
        limits: Limits | None = None,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._wanted = address
        self._limits = limits
        self.loop = new_loop()
        self.dispatcher = EchoDispatcher()
        self.grpc: GrpcServer
        self.address = ""
        self._thread = threading.Thread(target=self._serve, name="echo-server")
        self._ready: Future[None] = Future()
        self._stop = asyncio.Event()

    @property
    def target(self) -> str:
        """The address as grpcio writes it."""
        return self.address.removeprefix("tcp://")

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function on the server's loop and return its result."""
        result: Future[Any] = Future()

        def call() -> None:
            try:
                result.set_result(function(*args))
            except BaseException as error:  # noqa: BLE001
                result.set_exception(error)

        self.loop.call_soon_threadsafe(call)
        return result.result(PATIENCE)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true on the server's loop."""

        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.002)

        asyncio.run_coroutine_threadsafe(asyncio.wait_for(poll(), PATIENCE), self.loop).result(PATIENCE * 2)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        self.loop.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._main())
        except BaseException as error:  # noqa: BLE001
            self._ready.set_exception(error)

    async def _main(self) -> None:
        listening = listen(self._wanted)
        self.grpc = GrpcServer(self.dispatcher, self._limits)
        create = self.loop.create_unix_server if listening.is_unix else self.loop.create_server
        server = await create(self.grpc.protocol_factory, sock=listening.socket)
        self.address = listening.address
        self._ready.set_result(None)
        await self._stop.wait()
        server.close()
        # A connection that was accepted in this turn is made in the next ones.
        for _ in range(TURNS_TO_CONNECT):
            await asyncio.sleep(0)
        self.grpc.connections.abort()
        await self.grpc.connections.closed()
        listening.close()
