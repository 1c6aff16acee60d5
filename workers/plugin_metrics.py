"""Send what plugins count with `tyk.metrics` to the broker: once a second, and when the worker ends.

A hook never waits for this. A thread, started for the first metric, sends the series that have changed: by how much
counters and histograms have grown, and the values of gauges. What a worker that is killed had not sent is lost.
"""

import sys
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, Final

from tyk import metrics
from tyk.call import RUNNING
from tykpy.bundles import forked
from tykpy.bundles.imports.importer import space_of
from tykpy.bundles.plugin_errors import traceback_of
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.description import MAX_BUNDLE_NAME
from tykpy.ipc.errors import ControlClosedError
from tykpy.ipc.plugin_metrics import PIECE_SERIES
from tykpy.ipc.text import bounded
from tykpy.telemetry.log import Log
from tykpy.workers.process.guard import start_thread

log: Final = Log("tykpy.metrics")

PERIOD_S: Final = 1.0
"""Time between two reports."""
FINISH_S: Final = 1.0
"""How long a worker that ends waits for its last report; the broker gives it longer."""


class SentMetrics:
    """Reports the metrics of all bundles in this process; its thread starts with the first metric."""

    def __init__(self, control: ControlSocket, registry: metrics.Registry = metrics.registry) -> None:
        self._control = control
        self._registry = registry
        self._dropped: dict[tuple[str, str], int] = {}
        """What was reported as dropped so far, by bundle and reason."""
        self._starting = Lock()
        """Locked for good by whoever starts the thread."""
        self._finish: SimpleQueue[bool] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()

    def open(self, *, send: bool) -> None:
        """Attribute metrics to their bundles from now on, and report them if `send`."""
        self._registry.owner = acting_bundle
        if send:
            self._registry.on_use = self._start

    def finish(self) -> None:
        """Send a last report, for at most FINISH_S seconds."""
        if self._starting.locked():
            self._finish.put(True)
            with suppress(Empty):
                self._ended.get(timeout=FINISH_S)

    def _start(self) -> None:
        if not forked.is_child and self._starting.acquire(blocking=False):
            try:
                start_thread("metrics", self._run)
            except RuntimeError:  # out of threads: the next metric tries again
                self._starting.release()

    def _run(self) -> None:
        is_last = False
        try:
            while not is_last:
                with suppress(Empty):
                    is_last = self._finish.get(timeout=PERIOD_S)
                self._report()
        except ControlClosedError:
            log.debug("the broker is gone; what plugins have counted since the last report is lost")
        self._ended.put(None)

    def _report(self) -> None:
        for name, bundle in list(self._registry.bundles.items()):
            try:
                self._report_bundle(name, bundle)
            except ControlClosedError:
                raise
            except Exception as error:  # the bundle has changed what is not its own
                self._registry.bundles.pop(name, None)
                trace = traceback_of(error)
                log.error("metrics of bundle %s are given up", name, exc_info=(type(error), error, trace))

    def _report_bundle(self, name: str, bundle: metrics.BundleMetrics) -> None:
        text = bounded(name, MAX_BUNDLE_NAME)
        for change in bundle.changes():
            self._send(text, change)
        for reason, count in bundle.dropped.copy().items():
            new = count - self._dropped.get((name, reason), 0)
            self._dropped[name, reason] = count
            if new > 0:
                self._control.send("metrics_dropped", {"bundle": text, "reason": reason, "count": new})

    def _send(self, bundle: str, change: metrics.MetricChange) -> None:
        for at in range(0, len(change.series), PIECE_SERIES):
            series = change.series[at : at + PIECE_SERIES]
            self._control.send("metric", message(bundle, change._replace(series=series)))


def message(bundle: str, change: metrics.MetricChange) -> dict[str, Any]:
    """Return the control message for some series of a metric."""
    return {"bundle": bundle, "help": change.help, "series": change.series, **change.definition._asdict()}


def acting_bundle() -> str:
    """Return the bundle of the running hook; outside of hooks, the one whose code is on the stack, if any is."""
    running = RUNNING.get()
    if running is not None:
        return running[0].bundle
    space = space_of(sys._getframe(1))
    return "" if space is None else space.bundle
