"""Give back the memory that big bodies took, once none have come for a while."""

import logging
from collections.abc import Iterable
from typing import Final

from tykpy.broker.faults import attempt
from tykpy.ipc.bodies.heap import give_back
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.errors import IpcError

log = logging.getLogger("tykpy.pool")

TRIM_INTERVAL: Final = 5.0
"""Seconds between two calls of `trim_memory`."""


def trim_memory(bodies: BodyStore, channels: Iterable[BrokerChannel]) -> None:
    """Give back memory that was not used since the last call, in the broker and in the workers that serve."""
    attempt(bodies.trim)
    ended = False
    for channel in channels:
        try:
            ended |= channel.trim()
        except IpcError as error:
            # The worker's end is handled elsewhere.
            log.debug("a worker cannot be asked to give back memory: %s", error)
    if ended:
        give_back()
