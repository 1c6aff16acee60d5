"""Replace workers after a number of dispatches, an age, or an amount of memory.

The fresh worker is ready before the old one leaves. One is replaced at a time, so that there are never fewer workers
ready than there should be, and never more than one too many.
"""

import asyncio
import logging
import os
import random
import sys
from pathlib import Path
from typing import Final

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import WorkerStartError
from tykpy.broker.faults import Periodic, each
from tykpy.broker.pool.slots import RestartReason
from tykpy.broker.pool.supervisor import Supervisor
from tykpy.broker.pool.worker import Worker, WorkerPhase
from tykpy.telemetry.records import counted

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
KIB: Final = 1024
_RSS_FIELD: Final = 1
"""Index in `statm` of the resident memory, in pages."""


def memory_of(pid: int, limit: int) -> int:
    """Return a process's proportional share of memory (PSS) in bytes, or 0 if it is gone.

    Workers share many pages. PSS costs the kernel a walk over all mappings, so it is read only if the cheap upper bound
    (RSS) is above `limit`; otherwise RSS is returned.
    """
    try:
        rss = int(Path(f"/proc/{pid}/statm").read_text().split()[_RSS_FIELD]) * PAGE
        return _pss(pid, rss) if rss > limit else rss
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _pss(pid: int, otherwise: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        return otherwise
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith("Pss:")), otherwise)


log = logging.getLogger("tykpy.recycling")

LOOK_INTERVAL: Final = 1.0
"""Seconds between two checks of the workers' age and memory."""
RETRY_DELAY: Final = 10.0
"""Seconds until the next try after a replacement that did not start."""


class Recycler:
    """Replaces workers that are due, one after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: BrokerConfig, supervisor: Supervisor) -> None:
        self._loop = loop
        self._config = config
        self._supervisor = supervisor
        self._due: dict[Worker, str] = {}
        """The workers to replace, and why, in order."""
        self._leaving: Worker | None = None
        """The worker that is being replaced."""
        self._paused = False
        if config.max_requests:
            supervisor.request_limit = self._request_limit
            supervisor.on_request_limit = self._on_request_limit

    @property
    def recycled(self) -> int:
        """Workers that were replaced."""
        return self._supervisor.totals.restarts(RestartReason.RECYCLE)

    def start(self) -> None:
        """Check age and memory periodically from now on, if they are limited."""
        if self._config.max_age or self._config.max_memory:
            Periodic(self._loop, LOOK_INTERVAL, self._look).start()

    def _request_limit(self) -> int:
        # Workers that start together would all be due together.
        return self._config.max_requests + random.randint(0, self._config.max_requests_jitter)

    def _on_request_limit(self, worker: Worker) -> None:
        worker.request_limit = sys.maxsize
        self._add(worker, f"{counted(worker.handled, 'dispatch', 'dispatches')} (--max-requests)")

    def _look(self) -> None:
        each(self._look_at, self._supervisor.serving)

    def _look_at(self, worker: Worker) -> None:
        why = self._reason(worker)
        if why is not None:
            self._add(worker, why)

    def _reason(self, worker: Worker) -> str | None:
        if self._config.max_age and worker.age >= self._config.max_age:
            return f"{worker.age:.0f} s (--max-age)"
        # A worker that has done nothing yet is no larger than its replacement would be.
        if self._config.max_memory and worker.handled:
            memory = memory_of(worker.process.pid, self._config.max_memory)
            if memory > self._config.max_memory:
                return f"{memory / 2**20:.0f} MiB of memory (--max-memory)"
        return None

    def _add(self, worker: Worker, why: str) -> None:
        if worker is not self._leaving:
            self._due.setdefault(worker, why)
            self._next()

    def _next(self) -> None:
        while self._due and self._leaving is None and not self._paused:
            worker = next(iter(self._due))
            why = self._due.pop(worker)
            if worker.phase is WorkerPhase.READY:
                self._replace(worker, why)

    def _replace(self, worker: Worker, why: str) -> None:
        log.info("%s is replaced after %s", worker, why)
        self._leaving = worker
        try:
            self._supervisor.spawn(worker.slot, self)
        except WorkerStartError as error:
            self._postpone(str(error))

    def worker_ready(self, worker: Worker) -> None:
        """Admit the fresh worker; the old one leaves."""
        if self._supervisor.try_admit(worker, RestartReason.RECYCLE):
            self._leaving = None
            self._next()

    def worker_lost(self, worker: Worker, why: str) -> None:
        """Keep the old worker for now."""
        self._postpone(why)

    def _postpone(self, why: str) -> None:
        old, self._leaving = self._leaving, None
        log.error("%s goes on, its replacement did not start: %s; next try in %.0f s", old, why, RETRY_DELAY)
        if old is not None:
            self._due[old] = "a replacement that did not start"
        self._paused = True
        self._loop.call_later(RETRY_DELAY, self._resume)

    def _resume(self) -> None:
        self._paused = False
        self._next()
