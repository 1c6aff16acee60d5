"""Workers that start nothing of what they are given, although they answer when they are asked whether they live.

Such a worker is replaced. If the next one in its place has never run anything either, a bundle is responsible: one that
replaced what the worker's loops stand on, or the only one. Which it is among several others is not known; then the next
workers are started ever more slowly.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from tykpy.broker.catalog.loading import LoadWatch
from tykpy.broker.pool.worker import Source, Worker

log = logging.getLogger("tykpy.supervisor")

MAX_SUSPECTS: Final = 100
"""Bundles of one worker."""
MAX_NAMED: Final = 5
"""Replaced functions in a message."""


class IdleWorkers:
    """Remembers where workers were idle, and disables the bundles that make them so."""

    def __init__(self, loads: LoadWatch, disabled: Callable[[str], object]) -> None:
        """`disabled` is called with the path of each bundle that no worker is to load any more."""
        self._loads = loads
        self._disabled = disabled
        self._slots: set[int] = set()

    def note_replaced(self, worker: Worker, body: dict[str, Any]) -> None:
        """A bundle has replaced functions of the standard library while this worker loaded it."""
        if len(worker.suspects) < MAX_SUSPECTS:
            source = Source(body["path"], body["name"], body["version"])
            names = ", ".join(body["names"][:MAX_NAMED])
            worker.suspects[source] = f"it replaced {names}, and workers that load it take no dispatches"

    def given_up(self, worker: Worker) -> bool:
        """A worker is ended because it is idle; returns whether the next one will do without what made it so."""
        log.error("%s says that it lives, but starts nothing of what it is given; it is replaced", worker)
        again = worker.slot in self._slots and not worker.handled
        self._slots.add(worker.slot)
        if not again:
            return False
        suspects = worker.suspects or _only_bundle(worker)
        for source, reason in suspects.items():
            log.error("bundle %s is disabled until its files change or tykpy reload: %s", source.name, reason)
            self._loads.disable(source, reason)
            self._disabled(source.path)
        if not suspects:
            log.error("workers take no dispatches, again and again; which of their bundles does that is not known")
        return bool(suspects)


def _only_bundle(worker: Worker) -> dict[Source, str]:
    loaded = [bundle for bundle in worker.description if not bundle["error"]]
    if len(loaded) != 1:
        return {}
    (bundle,) = loaded
    source = Source(bundle["path"], bundle["name"], bundle["version"])
    return {source: "workers that load it take no dispatches, and it is the only one"}
