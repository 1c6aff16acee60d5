"""The process that forks workers (`workers/zygote.py`): kept while the broker runs, done without where it cannot be.

A worker that is forked needs no imports: it is ready much sooner than one started by exec, and shares memory with the
others.
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
"""Seconds from a zygote's end to the next one's start: whatever ends them must not keep a CPU busy."""


class Zygote:
    """One zygote process. Raises OSError from the constructor where it cannot be started."""

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
        """Whether it could ever be given orders, and whether it can be."""

    def fileno(self) -> int:
        """For `loop.add_reader`: call `hear`."""
        return self._orders.fileno()

    def hear(self) -> bool:
        """Take note of what it says of itself; False where it has ended."""
        heard = self._orders.hear()
        if heard:
            self.ever_ready = self.is_ready = True
        return heard is not False

    def fork(self, channel: str, descriptors: Sequence[int]) -> WorkerProcess:
        """Have a worker forked. Raises ZygoteLostError, and OSError where the machine has nothing left for it."""
        try:
            pid = self._orders.fork(channel, descriptors)
        except ZygoteLostError:
            self.kill()
            raise
        return WorkerProcess(pid, partial(self._reap, pid))

    def kill(self) -> None:
        """Have it end, and give it no more orders."""
        self.is_ready = False
        self._process.kill()

    def close(self) -> None:
        """End it; its workers live on, and how they end is not known any more."""
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
    """Starts a zygote, and the next one when it has ended; one that has never been ready is not replaced.

    What is forked ends with this object, or with the process that has it.
    """

    def __init__(self) -> None:
        self.life = LifePipe()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._zygote: Zygote | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settled: Callable[[], object] = lambda: None

    def open(self) -> None:
        """Start the first one, which imports what it needs from now on; works before there is an event loop."""
        try:
            self._zygote = Zygote(self.life.reader)
        except OSError as error:
            log.warning("the process that forks workers cannot be started: %s", error)

    def watch(self, loop: asyncio.AbstractEventLoop, patience: float, settled: Callable[[], object]) -> None:
        """Renew it from now on. `settled` is called once it is ready, or will never be; within `patience` seconds."""
        self._loop, self._settled = loop, settled
        if self._zygote is None:
            self._settle()
            return
        loop.add_reader(self._zygote.fileno(), self._on_news, self._zygote)
        self._timer = loop.call_later(patience, self._zygote.kill)

    def fork(self, channel: str, descriptors: Sequence[int]) -> WorkerProcess | None:
        """Have a worker forked; None while there is no zygote. Raises like `Zygote.fork`."""
        if self._zygote is None or not self._zygote.is_ready:
            return None
        return self._zygote.fork(channel, descriptors)

    def close(self) -> None:
        """End the zygote, and every worker that is left; works at any time, and again."""
        self._cancel()
        if self._zygote is not None:
            self._forget(self._zygote)
        self.life.close()

    def _on_news(self, zygote: Zygote) -> None:
        if zygote.hear():
            if zygote.is_ready:
                self._cancel()
                self._settle()
            return
        log.warning("the process that forks workers has ended: until there is another, workers start more slowly")
        self._cancel()
        self._forget(zygote)
        self._settle()
        if zygote.ever_ready and self._loop is not None:
            self._timer = self._loop.call_later(RENEWAL_DELAY, self._renew, self._loop)

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        # First: whatever keeps this one from starting, there is a next try.
        self._timer = loop.call_later(RENEWAL_DELAY, self._renew, loop)
        if self._zygote is None:
            self.open()
        if self._zygote is not None:
            loop.add_reader(self._zygote.fileno(), self._on_news, self._zygote)
            self._cancel()

    def _settle(self) -> None:
        settled, self._settled = self._settled, lambda: None
        settled()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _forget(self, zygote: Zygote) -> None:
        if self._loop is not None:
            self._loop.remove_reader(zygote.fileno())
        zygote.close()
        self._zygote = None
