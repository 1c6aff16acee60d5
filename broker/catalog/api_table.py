"""Which bundle each API uses, as workers see it from what they dispatch.

A gateway's event names its API and no bundle, and may go to a worker that has never seen the API: so each tells all.
"""

import logging
from collections.abc import Iterable
from typing import Any, Final

from tykpy.broker.pool.worker import Worker
from tykpy.ipc.errors import IpcError

log = logging.getLogger("tykpy.supervisor")

MAX_APIS: Final = 10_000
MAX_BYTES: Final = 1024 * 1024
"""Of ids and hashes, well below what a control message holds. A gateway has hundreds of APIs, with 64 bytes each; what
is beyond either limit is forgotten, and told again by the next worker that sees it."""
MAX_NAMES: Final = 256
"""Characters of an API's id and its bundle's hash together."""


class ApiTable:
    """Hands what one worker says about an API to the others, and to those that come later."""

    def __init__(self) -> None:
        self._bundle_hashes: dict[str, str] = {}
        self._bytes = 0

    def note(self, body: Any, others: Iterable[Worker]) -> None:
        """A worker has seen an API; one with longer names than workers announce is not kept."""
        api, bundle_hash = body["api"], body["bundle_hash"]
        if len(api) + len(bundle_hash) > MAX_NAMES:
            return
        self._bytes += len(api.encode()) + len(bundle_hash.encode())
        if len(self._bundle_hashes) >= MAX_APIS or self._bytes > MAX_BYTES:
            self._bundle_hashes.clear()
            self._bytes = 0
        self._bundle_hashes[api] = bundle_hash
        for worker in others:
            _tell(worker, {api: bundle_hash})

    def introduce(self, worker: Worker) -> None:
        """Tell a new worker all."""
        if self._bundle_hashes:
            _tell(worker, self._bundle_hashes)


def _tell(worker: Worker, bundle_hashes: dict[str, str]) -> None:
    try:
        worker.channel.control.send("apis", bundle_hashes)
    except IpcError as error:
        # It is ending, or does not read; either is noticed elsewhere.
        log.debug("%s was not told of an API: %s", worker, error)
