"""Messages that begin and do not end: peers are given up when too little of one comes for too long.

The counterpart of `broker/grpc/sweep.py`. Looked at once in a while, and only where a message is not complete.
"""

import asyncio
from typing import Final, Protocol

from tykpy.broker.faults import Periodic, each

SWEEP_INTERVAL: Final = 5.0
"""Seconds between two sweeps: how much later than its limit a message may be given up."""


class Sender(Protocol):
    """A connection on which a message is not complete."""

    def sweep(self) -> None:
        """Look how far it has come."""


class Sweeper:
    """Has all of them look, every `SWEEP_INTERVAL`; there is no timer where there is none of them."""

    __slots__ = ("_timer", "_unfinished")

    def __init__(self) -> None:
        self._unfinished: set[Sender] = set()
        self._timer: Periodic | None = None

    def watch(self, sender: Sender) -> None:
        """Its message is not complete."""
        self._unfinished.add(sender)
        if self._timer is None:
            self._timer = Periodic(asyncio.get_running_loop(), SWEEP_INTERVAL, self._sweep_again)
            self._timer.start()

    def forget(self, sender: Sender) -> None:
        """Nothing of it is under way."""
        self._unfinished.discard(sender)

    def sweep(self) -> None:
        """Look at all of them now."""
        each(lambda sender: sender.sweep(), list(self._unfinished))

    def stop(self) -> None:
        """Look no more; `watch` begins again."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _sweep_again(self) -> None:
        self.sweep()
        if not self._unfinished:
            self.stop()


class MessageAge:
    """How long a connection's message is under way, in sweeps."""

    __slots__ = ("_sweeps", "_swept")

    def __init__(self) -> None:
        self._sweeps = self._swept = 0

    def begin(self) -> None:
        """It is another message."""
        self._sweeps = self._swept = 0

    def is_too_old(self, come: int, timeout: float, progress: int) -> bool:
        """One sweep more; `come`: bytes of the message so far. Its time begins anew with each `progress` of them."""
        self._sweeps += 1
        if come - self._swept >= progress:
            self._sweeps, self._swept = 0, come
        return self._sweeps > timeout / SWEEP_INTERVAL
