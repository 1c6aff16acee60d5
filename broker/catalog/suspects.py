"""Find out which bundle ends workers if several may have done it: the next worker loads these first, one at a time.

What a bundle has left behind (a thread, a timer, a child process) may end the worker while another bundle is loaded, or
later. It has done so for certain if no other bundle had left anything behind in that worker.
"""

import logging
import time
from collections import Counter
from typing import Any, Final

from tykpy.broker.pool.process import Ending
from tykpy.broker.pool.worker import BundleVersion, LeftBehind, Worker

log = logging.getLogger("tykpy.supervisor")

LEAST_WAIT: Final = 1.0
"""Seconds that a worker watches a suspect that leaves something behind before it loads the next bundle."""
LONGEST_WAIT: Final = 15.0
SLOWNESS: Final = 1.5
"""How much longer the end may take than in the worker that ended: the machine may be busier."""
MOST_WAITING: Final = 30.0
"""Seconds that one worker may watch all its suspects; the next one watches others."""
MAX_TRIALS: Final = 2
"""Times that a bundle is tried in vain before it is no longer a suspect."""
MAX_TRIED: Final = 100
"""Bundles that may be tried in vain before the next workers are started with the delays of the pool's back-off."""
MEMORY: Final = 600.0
"""Seconds without an unexplained end after which trials are forgotten."""
MAX_LEFT: Final = 1_000
"""Most bundles of one worker that are known to have left something behind; the latest count."""
MAX_NAMED: Final = 5
"""Suspects in a message."""


class Suspects:
    """The bundles that the next workers load first, and for how long they watch each."""

    def __init__(self, load_timeout: float) -> None:
        """`load_timeout`: seconds within which a suspect must be loaded and watched."""
        self.waits: dict[str, float] = {}
        """Seconds to watch each path, in the order in which they are loaded."""
        self._longest = min(LONGEST_WAIT, load_timeout / 2)
        self._trials: Counter[str] = Counter()
        """How often each path was tried in vain."""
        self._last = 0.0

    def left_behind(self, worker: Worker, body: dict[str, Any]) -> None:
        """Note what the bundle that this worker has just loaded has left behind."""
        source = BundleVersion(body["path"], body["name"], body["version"])
        worker.left_behind.pop(source.path, None)
        worker.left_behind[source.path] = LeftBehind(source, ", ".join(body["kinds"]), time.monotonic())
        if len(worker.left_behind) > MAX_LEFT:
            del worker.left_behind[next(iter(worker.left_behind))]

    def add(self, worker: Worker, ending: Ending) -> None:
        """Suspect all bundles that may have ended this worker.

        Sets `worker.retry_at_once` if the next worker can find out more.
        """
        now = time.monotonic()
        if now - self._last > MEMORY:
            self._trials.clear()
        self._last = now
        left = worker.left_by_others
        # What ends a worker only after a long time does not show while it is watched.
        recent = [one for one in left if worker.loading or now - one.since < self._longest]
        hopeful = [one for one in recent if self._trials[one.source.path] < MAX_TRIALS]
        hopeful.sort(key=lambda one: self._trials[one.source.path])
        self.waits = {} if worker.loading is None else {worker.loading.path: min(LEAST_WAIT, self._longest)}
        total = 0.0
        for one in hopeful:
            wait = min(LEAST_WAIT + SLOWNESS * (now - one.since), self._longest)
            total += wait
            if total <= MOST_WAITING:
                self.waits[one.source.path] = wait
        untried = any(self._trials[path] < MAX_TRIALS for path in self.waits)
        worker.retry_at_once = untried and len(self._trials) < MAX_TRIED
        if recent or ending.by_itself:
            _report(worker, ending.words, left)

    def survived(self, worker: Worker, source: BundleVersion) -> None:
        """Note that a worker has loaded and watched a bundle, if that was its order."""
        if source.path in worker.watches and self.waits.pop(source.path, 0.0):
            self._trials[source.path] += 1

    def found(self) -> None:
        """Suspect nobody any more: it is known which bundle has ended workers. If others do so too, they will again."""
        self.waits.clear()

    def forget(self) -> None:
        """Suspect nobody any more."""
        self.waits.clear()
        self._trials.clear()


def _report(worker: Worker, words: str, left: list[LeftBehind]) -> None:
    when = f"while it loaded bundle {worker.loading.name}" if worker.loading else "while it ran no hook"
    named = [f"{one.source.name} ({one.what})" for one in left[:MAX_NAMED]]
    if len(left) > MAX_NAMED:
        named.append(f"and {len(left) - MAX_NAMED} more")
    level, then = logging.ERROR, "which one is not known"
    if worker.retry_at_once:
        level, then = logging.WARNING, "the next worker loads the suspects first, one at a time"
    text = "%s %s %s; what other bundles have left running may have done that: %s; %s"
    log.log(level, text, worker, words, when, ", ".join(named), then)
