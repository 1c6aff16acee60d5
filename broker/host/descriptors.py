"""Limit connections by the descriptors there are, and log when there are none; workers are replaced all the same.

Neither event loop reports that helpfully: without descriptors, uvloop closes each new connection silently, and asyncio
fills the log with tracebacks. Open connections continue, and new ones are served as soon as there are descriptors
again. Both loops accept all waiting connections before any can be refused, so no limit on connections keeps descriptors
free at every moment: those that a worker needs are reserved instead.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any, Final

from tykpy.broker.errors import ConfigError
from tykpy.broker.faults import Periodic
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.broker")

LOOK_INTERVAL: Final = 1.0
"""Seconds between two checks, which open and close one descriptor each."""
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})


class DescriptorReserve:
    """Descriptors that nobody else can take: held open, and released for the moment in which they are needed."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._wanted = 0

    def hold(self, count: int) -> None:
        """Hold this many from now on, or as many as there are."""
        self._wanted = count
        while len(self._held) > count:
            os.close(self._held.pop())
        self.refill()

    def refill(self) -> None:
        """Take again those that were released or not available."""
        with contextlib.suppress(OSError):
            while len(self._held) < self._wanted:
                self._held.append(os.dup(self._held[0]) if self._held else _open_nothing())

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Hold none until the end of the block, which must not wait for the event loop."""
        self._release()
        try:
            yield
        finally:
            self.refill()

    def close(self) -> None:
        """Hold none any more."""
        self._wanted = 0
        self._release()

    def _release(self) -> None:
        while self._held:
            os.close(self._held.pop())


def _open_nothing() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


FaultHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]
"""What `loop.set_exception_handler` takes."""


class DescriptorWatch:
    """Checks every second whether there is one more descriptor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reserve: DescriptorReserve, otherwise: FaultHandler) -> None:
        """`otherwise`: called for exceptions of callbacks that are not about descriptors."""
        self._loop = loop
        self._reserve = reserve
        self._otherwise = otherwise
        self._notices = QuietLog(log)
        self._exhausted = False

    def start(self) -> None:
        """Check from now on, and handle what asyncio reports when it cannot accept."""
        self._loop.set_exception_handler(self._on_fault)
        self._look()
        Periodic(self._loop, LOOK_INTERVAL, self._look).start()

    def _look(self) -> None:
        self._reserve.refill()
        try:
            os.close(_open_nothing())
        except OSError as error:
            self._complain(error)
            return
        if self._exhausted:
            self._exhausted = False
            log.info("descriptors are there again; new connections are served")

    def _complain(self, error: OSError) -> None:
        self._exhausted = True
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        message = (
            f"no descriptor can be had ({error.strerror}; the limit of this process is {limit}, LimitNOFILE= or"
            " ulimit -n): new connections are not served; what is open goes on, and workers are replaced from a reserve"
        )
        self._notices.log(logging.ERROR, "descriptors", message)

    def _on_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if isinstance(fault, OSError) and fault.errno in EXHAUSTED:
            self._complain(fault)
        else:
            self._otherwise(loop, context)


OWN: Final = 256
"""Descriptors for the broker itself: sockets, sinks of events, connections that are being refused."""
PER_WORKER: Final = 32
"""Descriptors per worker: channel, process and what starting one takes, twice, because a reload doubles the workers."""
MIN_DESCRIPTORS: Final = 64
"""Fewest descriptors with which a broker starts: with one worker it holds 54."""
MIN_CONNECTIONS: Final = 16
"""Connections that are always allowed: a broker needs some. `DescriptorReserve` is held nevertheless."""


def connections_allowed(wanted: int, workers: int) -> int:
    """Return how many of `wanted` connections there are descriptors for; log it if they are fewer.

    Raises this process's soft limit as far as needed.
    """
    reserve = _reserve(workers)
    files = raise_limit(wanted, workers)
    allowed = max(min(wanted, files - reserve), min(wanted, MIN_CONNECTIONS))
    if allowed < wanted:
        text = (
            "at most %d connections instead of %d (--max-connections): of %d files that may be open %d are kept for the"
            " broker and its workers; LimitNOFILE= in the unit, or ulimit -Hn, allows more"
        )
        log.warning(text, allowed, wanted, files, reserve)
    return allowed


def raise_limit(connections: int, workers: int) -> int:
    """Raise the soft limit of open files to what is needed, or to the hard limit; return the lower of the two.

    Workers inherit it. Raises ConfigError if no broker can run with that.
    """
    needed = connections + _reserve(workers)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if most < MIN_DESCRIPTORS:
        text = f"{most} files may be open, a broker needs at least {MIN_DESCRIPTORS}"
        raise ConfigError(f"{text}: LimitNOFILE= in the unit, or ulimit -Hn, allows more")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _reserve(workers: int) -> int:
    return OWN + PER_WORKER * workers
