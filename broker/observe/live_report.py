"""Writes snapshots into shared memory, for `tykpy status` and `tykpy top` while the event loop does not answer."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from tykpy.broker.faults import Periodic
from tykpy.broker.observe.source import SnapshotSource
from tykpy.telemetry.live_segment import MAX_SNAPSHOT, LiveSegment
from tykpy.telemetry.snapshot import shrink_snapshot

log = logging.getLogger("tykpy.broker")

PERIOD: Final = 0.5
"""Seconds between two writes."""


class LiveReport:
    """Writes a snapshot twice a second from a timer of the event loop; nothing is done per dispatch."""

    def __init__(self, loop: asyncio.AbstractEventLoop, runtime_dir: Path, source: SnapshotSource) -> None:
        self._runtime_dir = runtime_dir
        self._source = source
        self._segment: LiveSegment | None = None
        self._timer = Periodic(loop, PERIOD, self.write)

    def start(self) -> None:
        """Create the segment and write from now on; without shared memory only say so in the log."""
        try:
            self._segment = LiveSegment.create(self._runtime_dir)
        except OSError as error:
            log.warning("no live counters for `tykpy status`: %s", error)
        self.write()
        self._timer.start()

    def close(self) -> None:
        """Stop, and remove the segment; works also before `start`."""
        self._timer.stop()
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def write(self) -> None:
        """Take a snapshot now, and write it if there is a segment."""
        packed = self._source.renew()
        if self._segment is not None:
            self._segment.write(shrink_snapshot(packed.data, MAX_SNAPSHOT), packed.time_ns)
