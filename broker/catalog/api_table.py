"""Tell the workers which bundle each API uses.

A gateway's event names its API but no bundle, and may go to a worker that has never had a call of the API.
"""

import logging
from collections.abc import Iterable
from typing import Final

from tykpy.broker.pool.worker import Worker
from tykpy.ipc.errors import IpcError

log = logging.getLogger("tykpy.supervisor")

MAX_APIS: Final = 10_000
MAX_BYTES: Final = 1024 * 1024
"""Most bytes of ids and hashes, well below what a control message holds. A gateway has hundreds of APIs, with 64 bytes
each. Beyond either limit all are forgotten, and come back with later calls."""
MAX_NAMES: Final = 256
"""Longest id of an API and hash of its bundle together, in characters."""


class ApiTable:
    """The bundle of each API, as last seen in a call."""

    def __init__(self) -> None:
        self._bundle_hashes: dict[str, str] = {}
        self._bytes = 0

    def note(self, api: str, bundle_hash: str, workers: Iterable[Worker]) -> None:
        """Remember an API and tell these workers, unless that is known or the names are too long."""
        if len(api) + len(bundle_hash) > MAX_NAMES or self._bundle_hashes.get(api) == bundle_hash:
            return
        self._bytes += len(api.encode()) + len(bundle_hash.encode())
        if len(self._bundle_hashes) >= MAX_APIS or self._bytes > MAX_BYTES:
            self._bundle_hashes.clear()
            self._bytes = 0
        self._bundle_hashes[api] = bundle_hash
        for worker in workers:
            _tell(worker, {api: bundle_hash})

    def introduce(self, worker: Worker) -> None:
        """Tell a new worker about all APIs."""
        if self._bundle_hashes:
            _tell(worker, self._bundle_hashes)


def _tell(worker: Worker, bundle_hashes: dict[str, str]) -> None:
    try:
        worker.channel.control.send("apis", bundle_hashes)
    except IpcError as error:
        # It is ending or does not read; either is handled elsewhere.
        log.debug("%s was not told of an API: %s", worker, error)
