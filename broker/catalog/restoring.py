"""Brings back bundles that no worker has loaded any more, although their files are as they were.

What such a bundle needs at import, and only one process can have, was still taken when the worker was replaced that had
it. Once that worker has ended, a fresh one takes over the slot of another.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final, Protocol

from tykpy.broker.catalog.description import is_sound
from tykpy.broker.catalog.loading import BundleLoads
from tykpy.broker.errors import WorkerStartError
from tykpy.broker.pool.worker import Worker, WorkerOwner, WorkerPhase

log = logging.getLogger("tykpy.supervisor")

SETTLING: Final = 0.02
"""Seconds from a change in the pool to a look at it: who ended is replaced first, and that may be all it takes."""
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
"""Seconds until the next try, doubled each time."""
PATIENT_TRIES: Final = 2
"""For so many tries dispatches wait: a broker that was replaced takes a moment to end."""
MAX_TRIES: Final = 8
"""Then it is left to the next reload."""


class Pool(Protocol):
    """What is needed of the supervisor."""

    @property
    def loads(self) -> BundleLoads:
        """Knows which bundles no worker is to import."""

    @property
    def workers(self) -> Iterable[Worker]:
        """Every worker that lives."""

    @property
    def serving(self) -> list[Worker]:
        """The workers that get dispatches."""

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The bundles that no serving worker has loaded, with the files as they were."""

    def spawn(self, slot: int, owner: WorkerOwner) -> Worker:
        """Start a worker."""

    def let_in(self, worker: Worker) -> bool:
        """Admit the worker unless it would serve less than others; then it is dismissed."""

    def dismiss(self, worker: Worker, why: str) -> None:
        """End a worker that was not let in."""

    def learn(self) -> None:
        """Tell the router what is loaded, and waited for."""


class Restorer:
    """Looks after every change in the pool; one try at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self._loop = loop
        self._pool = pool
        self._timer: asyncio.TimerHandle | None = None
        self._worker: Worker | None = None
        self._tries = 0

    @property
    def awaited(self) -> list[dict[str, Any]]:
        """The bundles whose dispatches are worth waiting: what the first tries bring is not known yet."""
        failed = self._tries - (self._worker is not None)
        return self._pool.lost if failed < PATIENT_TRIES else []

    def changed(self) -> None:
        """A worker was let in, or has ended."""
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLING, self._look)

    def start_afresh(self) -> None:
        """There is new code: forget the tries that failed."""
        self._tries = 0

    def stop(self) -> None:
        """Try nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        lost = self._pool.lost
        if not lost:
            self._tries = 0
            return
        paths = {bundle["path"] for bundle in lost}
        if self._tries < MAX_TRIES and not any(_may_have(worker, paths) for worker in self._pool.workers):
            self._try(lost)

    def _try(self, lost: list[dict[str, Any]]) -> None:
        names = ", ".join(bundle["name"] for bundle in lost)
        log.warning(
            "no worker has loaded %s any more; a new one tries to (%d of %d)", names, self._tries + 1, MAX_TRIES
        )
        slot = min(self._pool.serving, key=lambda worker: worker.in_flight).slot
        self._tries += 1
        self._pool.loads.retry(bundle["path"] for bundle in lost)
        try:
            self._worker = self._pool.spawn(slot, self)
        except WorkerStartError as error:
            self._failed(str(error))

    def worker_ready(self, worker: Worker) -> None:
        """Let it in where it brings something back."""
        lost = {bundle["path"] for bundle in self._pool.lost}
        if not lost or any(bundle["path"] in lost and is_sound(bundle) for bundle in worker.description):
            self._worker = None
            self._tries = 0
            self._pool.let_in(worker)
        else:
            self._pool.dismiss(worker, "it could not load what is missing either")

    def worker_lost(self, worker: Worker, why: str) -> None:
        """Try again later."""
        self._failed(why)

    def _failed(self, why: str) -> None:
        self._worker = None
        if self._tries < MAX_TRIES:
            delay = min(FIRST_DELAY * 2.0 ** (self._tries - 1), LONGEST_DELAY)
            log.error("nothing was brought back: %s; next try in %.0f s", why, delay)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(delay, self._look)
        else:
            log.error("nothing was brought back: %s; given up until the next reload (tykpy reload)", why)
        self._pool.learn()


def _may_have(worker: Worker, paths: set[str]) -> bool:
    """Whether this worker may still have what the bundles need, or is about to load them."""
    if worker.phase in (WorkerPhase.STARTING, WorkerPhase.STANDBY):
        return True
    return any(bundle["path"] in paths and is_sound(bundle) for bundle in worker.description)
