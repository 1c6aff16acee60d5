"""Keeps the broker's live counters up to date, for `tykpy status` while the event loop does not answer."""

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Final

from tykpy.broker.pool.supervisor import Supervisor
from tykpy.broker.router.router import Router
from tykpy.telemetry.live_counters import LiveCounters, LiveSegment

log = logging.getLogger("tykpy.broker")

PERIOD: Final = 0.5
"""Seconds between two writes."""


class LiveReport:
    """Writes the counters twice a second from a timer of the event loop; nothing is done per dispatch."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, runtime_dir: Path, router: Router, supervisor: Supervisor
    ) -> None:
        self._loop = loop
        self._runtime_dir = runtime_dir
        self._router = router
        self._supervisor = supervisor
        self._segment: LiveSegment | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Create the segment and write from now on; without shared memory only say so in the log."""
        try:
            self._segment = LiveSegment.create(self._runtime_dir)
        except OSError as error:
            log.warning("no live counters for `tykpy status`: %s", error)
            return
        self._write()

    def close(self) -> None:
        """Stop, and remove the segment; works also before `start`."""
        if self._timer is not None:
            self._timer.cancel()
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _write(self) -> None:
        assert self._segment is not None
        router, counters = self._router, self._router.counters
        self._segment.write(
            LiveCounters(
                pid=os.getpid(),
                time_ns=time.monotonic_ns(),
                taken=counters.taken,
                answered=counters.answered,
                failed=counters.failed,
                waiting=router.waiting,
                under_way=router.under_way,
                ready=len(router.pool),
                restarts=self._supervisor.restarts,
            )
        )
        self._timer = self._loop.call_later(PERIOD, self._write)
