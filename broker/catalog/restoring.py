"""Bring back bundles that no worker has loaded any more, although their files have not changed.

Such a bundle needs something at import that only one process can have (a port, a lock file), and that was still taken
when the worker that had it was replaced. Once that worker has ended, a fresh one takes over the slot of another.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, Protocol

from tykpy.broker.catalog.description import BundleDescription, is_sound
from tykpy.broker.catalog.loading import BundleLoads
from tykpy.broker.errors import WorkerStartError
from tykpy.broker.pool.worker import Worker, WorkerOwner, WorkerPhase

log = logging.getLogger("tykpy.supervisor")

QUIET_TIME: Final = 0.02
"""Seconds from a change in the pool to a check: a worker that ended is replaced first, and that may be enough."""
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
"""Seconds until the next try, doubled each time."""
PATIENT_TRIES: Final = 2
"""Tries during which dispatches wait: a broker that was replaced takes a moment to end."""
MAX_TRIES: Final = 8
"""After these the bundle waits for the next reload."""


class Pool(Protocol):
    """The part of the supervisor that restoring uses; see `Supervisor`."""

    loads: BundleLoads

    @property
    def workers(self) -> Iterable[Worker]:
        """Every worker alive."""

    @property
    def serving(self) -> list[Worker]:
        """The workers that get dispatches."""

    @property
    def lost(self) -> list[BundleDescription]:
        """The bundles that no serving worker has loaded, with unchanged files."""

    def spawn(self, slot: int, owner: WorkerOwner) -> Worker:
        """Start a worker."""

    def try_admit(self, worker: Worker) -> bool:
        """Admit a worker unless it would serve less than the others."""

    def dismiss(self, worker: Worker, why: str) -> None:
        """End a worker that was not admitted."""

    def learn(self) -> None:
        """Tell the router what is loaded, and what calls wait for."""


class Restorer:
    """Checks after every change in the pool whether a bundle is lost; makes one try at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self._loop = loop
        self._pool = pool
        self._timer: asyncio.TimerHandle | None = None
        self._worker: Worker | None = None
        self._tries = 0

    @property
    def awaited(self) -> list[BundleDescription]:
        """The lost bundles whose dispatches wait: it is not known yet what the first tries bring."""
        failed = self._tries - (self._worker is not None)
        return self._pool.lost if failed < PATIENT_TRIES else []

    def changed(self) -> None:
        """React to a worker that was admitted or has ended."""
        if self._timer is None:
            self._timer = self._loop.call_later(QUIET_TIME, self._look)

    def start_afresh(self) -> None:
        """Forget failed tries: there is new code."""
        self._tries = 0

    def stop(self) -> None:
        """Make no more tries."""
        if self._timer is not None:
            self._timer.cancel()

    def worker_ready(self, worker: Worker) -> None:
        """Admit a worker that brings something back."""
        lost = {bundle["path"] for bundle in self._pool.lost}
        if not lost or any(bundle["path"] in lost and is_sound(bundle) for bundle in worker.description):
            self._worker = None
            self._tries = 0
            self._pool.try_admit(worker)
        else:
            self._pool.dismiss(worker, "it could not load what is missing either")

    def worker_lost(self, worker: Worker, why: str) -> None:
        """Try again later."""
        self._failed(why)

    def _look(self) -> None:
        self._timer = None
        lost = self._pool.lost
        if not lost:
            self._tries = 0
            return
        paths = {bundle["path"] for bundle in lost}
        if self._tries < MAX_TRIES and not any(_may_have(worker, paths) for worker in self._pool.workers):
            self._try(lost)

    def _try(self, lost: list[BundleDescription]) -> None:
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

    def _failed(self, why: str) -> None:
        self._worker = None
        if self._tries < MAX_TRIES:
            delay = min(FIRST_DELAY * 2.0 ** (self._tries - 1), LONGEST_DELAY)
            log.error("nothing was brought back: %s; next try in %.0f s", why, delay)
            self.stop()
            self._timer = self._loop.call_later(delay, self._look)
        else:
            log.error("nothing was brought back: %s; given up until the next reload (tykpy reload)", why)
        self._pool.learn()


def _may_have(worker: Worker, paths: set[str]) -> bool:
    """Return whether this worker may still have what the bundles need, or is about to load them."""
    if worker.phase in (WorkerPhase.STARTING, WorkerPhase.STANDBY):
        return True
    return any(bundle["path"] in paths and is_sound(bundle) for bundle in worker.description)
