"""The thread that answers operators over HTTP (--metrics), with an event loop of its own.

The broker's event loop only takes snapshots. While it is stuck, the thread answers from the last one.
"""

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from signal import SIG_BLOCK, pthread_sigmask, valid_signals
from typing import Any, Final

from tykpy.broker.net.listeners import LEAVE_FILE
from tykpy.broker.net.sockets import BACKLOG, ListeningSocket
from tykpy.broker.observe.http import HttpServer, Routes
from tykpy.broker.observe.source import SnapshotSource
from tykpy.telemetry.snapshot import Snapshot, decode_snapshot

log = logging.getLogger("tykpy.http")

FRESH_SECONDS: Final = 0.1
"""Age up to which a snapshot is not taken anew: requests in quick succession cost the broker's event loop nothing."""
PATIENCE: Final = 0.5
"""Seconds that the broker's event loop has to take a snapshot; after that the last one is used."""
SWITCH_INTERVAL: Final = 0.0002
"""Seconds that a thread keeps the interpreter when another wants it. With Python's 5 ms, dispatches would wait 5 ms
several times while a large page is made."""
CLOSE_SECONDS: Final = 2.0
"""Longest time that the end of the broker waits for the thread."""


class Snapshots:
    """The broker's snapshots, for the listener's thread."""

    def __init__(self, source: SnapshotSource, broker_loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._broker_loop = broker_loop
        self._decoded: tuple[int, Snapshot] | None = None
        self._renewal: asyncio.Future[None] | None = None

    async def fresh(self) -> Snapshot:
        """Return a new snapshot, or the last one if the broker's event loop does not turn. Do not change it."""
        latest = self.latest()
        if latest.age > FRESH_SECONDS:
            if self._renewal is None or self._renewal.done():
                self._renewal = self._ask()
            await asyncio.wait([self._renewal], timeout=PATIENCE)
        return self.latest()

    def latest(self) -> Snapshot:
        """Return the last snapshot; the broker takes one twice a second."""
        packed = self._source.last
        assert packed is not None, "the broker takes a snapshot before it listens"
        if self._decoded is None or self._decoded[0] != packed.time_ns:
            self._decoded = packed.time_ns, decode_snapshot(packed.data)
        return self._decoded[1]

    def _ask(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def renew() -> None:
            try:
                self._source.renew()
            finally:
                _call(loop, done.set_result, None)

        _call(self._broker_loop, renew)
        return done


class HttpListener:
    """The thread, for the broker's event loop."""

    def __init__(
        self, listening: ListeningSocket, routes: Routes, background: Callable[[], Coroutine[None, None, None]] | None
    ) -> None:
        """`background` runs in the thread's event loop as long as it serves."""
        self._listening = listening
        self._routes = routes
        self._background = background
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._thread.start()
        log.info("metrics on %s/metrics", self._listening.address.replace("tcp://", "http://"))

    def tasks(self) -> set[asyncio.Task[Any]]:
        """Return the tasks of its event loop."""
        return asyncio.all_tasks(self._loop)

    def stop(self) -> None:
        """Accept nothing more and close all connections soon; the socket's file stays."""
        _call(self._loop, self._stop.set)

    def close(self) -> None:
        """Stop, and wait for the end of the thread; works also before `start`."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        elif not self._loop.is_closed():
            self._loop.close()

    def _run(self) -> None:
        # Signals are for the main thread.
        pthread_sigmask(SIG_BLOCK, valid_signals())
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        # A duplicate: the event loop closes it, and the socket is the broker's.
        sock = self._listening.socket.dup()
        is_local = not self._listening.is_unix and ip_address(sock.getsockname()[0]).is_loopback
        http = HttpServer(self._routes, is_local=is_local)
        if self._listening.is_unix:
            server = await asyncio.start_unix_server(http.serve, sock=sock, backlog=BACKLOG, **LEAVE_FILE)
        else:
            server = await asyncio.start_server(http.serve, sock=sock, backlog=BACKLOG)
        background = None if self._background is None else asyncio.create_task(self._background())
        await self._stop.wait()
        if background is not None:
            background.cancel()
        server.close()
        http.abort()


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Call back in another thread's event loop, unless it has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)
