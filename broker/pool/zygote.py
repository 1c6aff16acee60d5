"""The process that forks workers (`workers/zygote.py`).

A forked worker needs no imports: it is ready much sooner than one started by exec, and shares memory with the others.
While there is no zygote, workers are started by exec.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tykpy.broker.pool.process import LifePipe, WorkerProcess, execute
from tykpy.ipc.errors import ZygoteLostError
from tykpy.ipc.orders import ARGUMENT, OrderSender

log = logging.getLogger("tykpy.supervisor")

RENEWAL_DELAY: Final = 1.0
"""Seconds from a zygote's end to the start of the next: whatever ends them must not keep a CPU busy."""


class Zygote:
    """One zygote process. Raises OSError from the constructor if it cannot be started."""

    def __init__(self, life: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = execute([f"{ARGUMENT}{theirs.fileno()}", str(life)], [theirs.fileno(), life])
            except BaseException:
                ours.close()
                raise
        self._orders = OrderSender(ours)
        self.pid = self._process.pid
        self.ever_ready = self.is_ready = False
        """Whether it was ever ready for orders, and whether it is now."""

    def fileno(self) -> int:
        """Return the descriptor for `loop.add_reader`, which calls `hear`."""
        return self._orders.fileno()

    def hear(self) -> bool:
        """Read its messages; return False if it has ended."""
        heard = self._orders.hear()
        if heard:
            self.ever_ready = self.is_ready = True
        return heard is not False

    def fork(self, channel: str, descriptors: Sequence[int]) -> WorkerProcess:
        """Fork a worker. Raises ZygoteLostError, and OSError if the machine has no resources for it."""
        try:
            pid = self._orders.fork(channel, descriptors)
        except ZygoteLostError:
            self.kill()
            raise
        return WorkerProcess(pid, partial(self._reap, pid))

    def kill(self) -> None:
        """Kill it, and give it no more orders."""
        self.is_ready = False
        self._process.kill()

    def close(self) -> None:
        """End it; its workers live on, but how they end will not be known."""
        self.kill()
        self._process.wait()
        self._orders.close()

    def _reap(self, pid: int) -> int | None:
        if not self.is_ready:
            return None
        try:
            return self._orders.reap(pid)
        except ZygoteLostError as error:
            log.error("process %d has ended: %s", pid, error)
            self.kill()
        except OSError as error:
            log.error("process %d has ended, and its zygote does not know it: %s", pid, error)
        return None


class ZygoteKeeper:
    """Keeps a zygote running: starts another one when it has ended, unless it was never ready.

    Forked workers end with this object, or with its process.
    """

    def __init__(self) -> None:
        self.life = LifePipe()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._zygote: Zygote | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._decided: Callable[[], object] = lambda: None

    def open(self) -> None:
        """Start the first zygote, which begins to import what it needs; works before there is an event loop."""
        try:
            self._zygote = Zygote(self.life.reader)
        except OSError as error:
            log.warning("the process that forks workers cannot be started: %s", error)

    def watch(self, loop: asyncio.AbstractEventLoop, patience: float, decided: Callable[[], object]) -> None:
        """Replace it from now on. `decided` is called when it is ready or never will be, within `patience` seconds."""
        self._loop, self._decided = loop, decided
        if self._zygote is None:
            self._decide()
            return
        loop.add_reader(self._zygote.fileno(), self._on_news, self._zygote)
        self._timer = loop.call_later(patience, self._zygote.kill)

    def fork(self, channel: str, descriptors: Sequence[int]) -> WorkerProcess | None:
        """Fork a worker; return None while there is no zygote. Raises like `Zygote.fork`."""
        if self._zygote is None or not self._zygote.is_ready:
            return None
        return self._zygote.fork(channel, descriptors)

    def close(self) -> None:
        """End the zygote and every worker that is left; works at any time and repeatedly."""
        self._cancel()
        if self._zygote is not None:
            self._forget(self._zygote)
        self.life.close()

    def _on_news(self, zygote: Zygote) -> None:
        if zygote.hear():
            if zygote.is_ready:
                self._cancel()
                self._decide()
            return
        log.warning("the process that forks workers has ended: until there is another, workers start more slowly")
        self._cancel()
        self._forget(zygote)
        self._decide()
        if zygote.ever_ready and self._loop is not None:
            self._timer = self._loop.call_later(RENEWAL_DELAY, self._renew, self._loop)

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        # Scheduled first, so that there is a next try even if this one fails to start.
        self._timer = loop.call_later(RENEWAL_DELAY, self._renew, loop)
        if self._zygote is None:
            self.open()
        if self._zygote is not None:
            loop.add_reader(self._zygote.fileno(), self._on_news, self._zygote)
            self._cancel()

    def _decide(self) -> None:
        decided, self._decided = self._decided, lambda: None
        decided()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _forget(self, zygote: Zygote) -> None:
        if self._loop is not None:
            self._loop.remove_reader(zygote.fileno())
        zygote.close()
        self._zygote = None
