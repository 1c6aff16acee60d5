"""The connections of one front end: counted, limited, and swept for whatever takes too long.

One periodic sweep looks at all connections, so that calls need no timers of their own.
"""

import asyncio
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from tykpy.broker.faults import Periodic, each

SWEEP_INTERVAL: Final = 5.0
"""Seconds between two sweeps: how much later than its limit a connection may be closed."""
SWEEP_SLICE: Final = 100
"""Connections swept in one pass through the event loop: 0.3 ms."""
MAX_REFUSED: Final = 64
"""Connections above the limit that get time to read why they are refused; further ones are aborted at once."""


class SweptConnection(Protocol):
    """A connection of a front end."""

    def sweep(self, now: float) -> None:
        """Give up what takes too long; `now` is the loop's time in seconds."""

    def abort(self) -> None:
        """Close at once."""


_C = TypeVar("_C", bound=SweptConnection)


class Connections(Generic[_C]):
    """The open connections of one front end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.open: set[_C] = set()
        """Connections that `closed` waits for."""
        self.draining = False
        """Set by the front end. Later connections are still accepted, since refused peers would come back at once, for
        ever; nobody waits for them to close."""
        self._late: set[_C] = set()
        self.refused: set[_C] = set()
        """Connections above the limit that are being told so."""
        self._loop = loop
        self._limit = limit
        self._sweeper = Periodic(loop, SWEEP_INTERVAL, self._sweep_slowly)
        self._closed = asyncio.Event()
        self._closed.set()

    def __len__(self) -> int:
        return len(self.open) + len(self._late)

    def add(self, connection: _C) -> bool:
        """Register a new connection; return False if it is one too many."""
        if len(self) >= self._limit:
            self.refused.add(connection)
            return False
        if self.draining:
            self._late.add(connection)
            return True
        self.open.add(connection)
        self._closed.clear()
        self._sweeper.start()
        return True

    def discard(self, connection: _C) -> None:
        """Remove a connection that is closed."""
        self.refused.discard(connection)
        self._late.discard(connection)
        self.open.discard(connection)
        if not self.open:
            self._closed.set()
            self._sweeper.stop()

    def abort(self) -> None:
        """Close all connections at once; their calls are cancelled."""
        for connection in [*self.open, *self._late, *self.refused]:
            connection.abort()

    async def closed(self) -> None:
        """Wait until all connections are closed that were accepted before `draining` was set."""
        await self._closed.wait()

    def sweep(self, now: float) -> None:
        """Sweep all connections; `now` is the loop's time in seconds."""
        each(lambda connection: connection.sweep(now), list(self.open))

    def _sweep_slowly(self) -> None:
        self._sweep_some(iter(list(self.open)))

    def _sweep_some(self, left: Iterator[_C]) -> None:
        # A few in each pass through the event loop, so that ten thousand idle connections delay nobody.
        now = self._loop.time()
        some = list(islice(left, SWEEP_SLICE))
        each(lambda connection: connection.sweep(now), some)
        if some:
            self._loop.call_soon(self._sweep_some, left)


class Unchanged:
    """Measures for how long a value has stayed the same."""

    __slots__ = ("_since", "_value")

    def __init__(self, value: Hashable, now: float) -> None:
        self._value = value
        self._since = now

    def seconds(self, value: Hashable, now: float) -> float:
        """Return for how many seconds the value has been this one, as far as the calls of this method show."""
        if value != self._value:
            self._value, self._since = value, now
        return now - self._since


class RequestProgress:
    """Tells a request whose rest comes too slowly from a large one that takes its time."""

    __slots__ = ("_received", "_sweeps")

    def __init__(self) -> None:
        self._sweeps = self._received = 0

    def restart(self, received: int = 0) -> None:
        """Count from 0 again; `received`: bytes of the request so far."""
        self._sweeps, self._received = 0, received

    def is_too_slow(self, received: int, timeout: float, least: int) -> bool:
        """Count one sweep; return whether fewer than `least` bytes have come in the last `timeout` seconds."""
        if received - self._received >= least:
            self.restart(received)
            return False
        self._sweeps += 1
        return self._sweeps > timeout / SWEEP_INTERVAL
