"""Gives back the memory that big bodies took, once none have come for a while."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from tykpy.broker.faults import Periodic, attempt
from tykpy.ipc.bodies.heap import give_back
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.errors import IpcError

log = logging.getLogger("tykpy.pool")

LOOK_INTERVAL: Final = 5.0
"""Seconds; memory is given back when it was not used between two looks."""


class IdleMemory:
    """Looks at the store of big requests and at the workers' channels, for as long as the loop runs."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bodies: BodyStore, channels: Callable[[], Iterable[BrokerChannel]]
    ) -> None:
        """`channels`: those of the workers that serve, at the time of each look."""
        self._loop = loop
        self._bodies = bodies
        self._channels = channels

    def start(self) -> None:
        """Look from now on."""
        Periodic(self._loop, LOOK_INTERVAL, self.look).start()

    def look(self) -> None:
        """Give back what was not used since the last look."""
        attempt(self._bodies.trim)
        ended = False
        for channel in self._channels():
            try:
                ended |= channel.trim()
            except IpcError as error:
                # Whoever waits for its end hears of it too.
                log.debug("a worker cannot be asked to give back memory: %s", error)
        if ended:
            give_back()
