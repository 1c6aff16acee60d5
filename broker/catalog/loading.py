"""Watch workers load bundles, and find the bundles that end, hang or idle their workers.

A worker says which bundle it is about to load. If it ends before it reports the result, or takes too long, the bundle
is to blame, and no other worker imports it until its files change or a reload clears the table. If something that
another bundle has left running may have done it, the next worker finds out (see suspects.py).
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

from tykpy.broker.catalog.suspects import Suspects
from tykpy.broker.config import BrokerConfig
from tykpy.broker.pool.process import Ending
from tykpy.broker.pool.worker import BrokenBundle, BundleVersion, Worker

log = logging.getLogger("tykpy.supervisor")

KILL_DELAY: Final = 0.05
"""Seconds that a worker that is not ready in time has to write its stacks."""
MAX_STRIKES: Final = 3
"""Workers that a signal from outside may end while they load the same bundle before the bundle is blamed."""
MAX_VERSIONS: Final = 3
"""Versions of a bundle that may each end a worker; after these no version is loaded."""
MAX_SUSPECTS: Final = 100
"""Most bundles of one worker that may make it idle."""
MAX_NAMED: Final = 5
"""Replaced functions in a message."""


class BundleLoads:
    """Limits the time of all workers' loads, and remembers which bundles are not to be loaded."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: BrokerConfig) -> None:
        self._loop = loop
        self._ready_timeout = config.ready_timeout
        self._load_timeout = min(config.load_timeout or config.ready_timeout, config.ready_timeout)
        self._flag = "--load-timeout" if self._load_timeout < config.ready_timeout else "--ready-timeout"
        self._broken: dict[str, BrokenBundle] = {}
        self._strikes: dict[str, int] = {}
        self.suspects = Suspects(self._load_timeout)

    # -- what a worker does ---

    def spawned(self, worker: Worker) -> None:
        """Note that a worker was started, with the messages of this moment."""
        worker.watches = dict(self.suspects.waits)
        self.started(worker)

    def started(self, worker: Worker) -> None:
        """Start the time limit for the rest of a worker's start-up, bundles not included."""
        worker.loading = None
        worker.wait(self._loop.call_later(self._ready_timeout, self._not_ready, worker))

    def loading(self, worker: Worker, source: BundleVersion) -> None:
        """Note that a worker is about to import a bundle, and start the bundle's time limit."""
        worker.loading = source
        worker.wait(self._loop.call_later(self._load_timeout, self._not_loaded, worker, source))

    def left_behind(self, worker: Worker, body: dict[str, Any]) -> None:
        """Note what a bundle has left running, and start its time limit again if the worker watches it."""
        self.suspects.left_behind(worker, body)
        if worker.loading is not None and worker.loading.path in worker.watches:
            self.loading(worker, worker.loading)

    def loaded(self, worker: Worker) -> None:
        """Note that a worker has finished loading a bundle."""
        if worker.loading is not None:
            self._strikes.pop(worker.loading.path, None)
            self.suspects.survived(worker, worker.loading)
        self.started(worker)

    def ended(self, worker: Worker, ending: Ending) -> None:
        """Blame the bundle that ended this worker, if that is certain, or have the next worker find out which it was.

        Sets `worker.retry_at_once` if there is any use in starting the next one at once.
        """
        if worker.failure is not None:
            return  # the broker ended it
        source = worker.loading
        if worker.left_by_others:
            self.suspects.add(worker, ending)
            return
        if source is None:
            return  # nothing was being loaded
        strikes = self._strikes[source.path] = self._strikes.get(source.path, 0) + 1
        # For lack of memory the kernel kills who is biggest, and that may be anybody's fault.
        if (ending.by_itself and not ending.out_of_memory) or strikes >= MAX_STRIKES:
            left = worker.left_behind.get(source.path)
            why = f"; it had left {left.what} running" if left else ""
            self._blame(worker, source, f"the worker that loaded it {ending.words}{why}")

    # -- what is known of the bundles ---

    def messages(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the names and bodies of messages for a new worker: what not to import, and what to load first."""
        broken = [("broken", _message(one)) for one in self._broken.values()]
        return broken + [("watch", {"path": path, "wait": wait}) for path, wait in self.suspects.waits.items()]

    def forget(self) -> None:
        """Let the next workers try every bundle again."""
        self._strikes.clear()
        self.suspects.forget()
        self.retry(list(self._broken))

    def disable(self, source: BundleVersion, reason: str) -> None:
        """Have no worker import a bundle, for a reason other than a failed load."""
        self._broken[source.path] = BrokenBundle(source, reason, versions=1)

    def retry(self, paths: Iterable[str]) -> None:
        """Have these bundles tried again by the next worker."""
        for path in paths:
            broken = self._broken.pop(path, None)
            if broken is not None and broken.wait:
                self.suspects.waits[path] = broken.wait

    def is_barred(self, path: str) -> bool:
        """Return whether workers do not import this bundle, as it has ended or hung one."""
        return path in self._broken

    def _not_ready(self, worker: Worker) -> None:
        worker.failure = f"not ready after {self._ready_timeout:g} s (--ready-timeout)"
        self._end(worker, "its stacks follow")

    def _not_loaded(self, worker: Worker, source: BundleVersion) -> None:
        reason = f"it was not loaded after {self._load_timeout:g} s ({self._flag})"
        if worker.left_by_others:
            worker.failure = f"bundle {source.name}: {reason}"
            self.suspects.add(worker, Ending(f"hung for {self._load_timeout:g} s", by_itself=True))
            self._end(worker, "what it waits for follows")
        elif self._blame(worker, source, reason):
            self._end(worker, "what it waits for follows")
        else:
            worker.process.kill()

    def _end(self, worker: Worker, what_follows: str) -> None:
        log.warning("%s is killed, %s; %s", worker, worker.failure, what_follows)
        worker.process.dump()
        self._loop.call_later(KILL_DELAY, worker.process.kill)

    def _blame(self, worker: Worker, source: BundleVersion, reason: str) -> bool:
        """Note that a bundle ended or hung a worker; return whether this version did so for the first time."""
        before = self._broken.get(source.path)
        known = before is not None and before.source.version == source.version
        versions = 1 if before is None else before.versions if known else before.versions + 1
        self.suspects.found()
        wait = worker.watches.get(source.path, 0.0) if source.path in worker.left_behind else 0.0
        self._broken[source.path] = BrokenBundle(source, reason, versions, wait)
        worker.failure = f"bundle {source.name}: {reason}"
        worker.retry_at_once = True
        return not known


def _message(broken: BrokenBundle) -> dict[str, str]:
    version = broken.source.version if broken.versions < MAX_VERSIONS else ""
    return {"path": broken.source.path, "version": version, "reason": broken.reason}


class IdleWorkers:
    """Disables bundles whose workers answer pings but start no dispatch.

    Such a worker is replaced. If the next one in its slot has never run anything either, a bundle is responsible: one
    that replaced what the worker's loops depend on, or the only one. If it cannot be known which, the next workers are
    started ever more slowly.
    """

    def __init__(self, loads: BundleLoads) -> None:
        self._loads = loads
        self._slots: set[int] = set()

    def note_replaced(self, worker: Worker, body: dict[str, Any]) -> None:
        """Note that a bundle replaced functions of the standard library while this worker loaded it."""
        if len(worker.suspects) < MAX_SUSPECTS:
            source = BundleVersion(body["path"], body["name"], body["version"])
            names = ", ".join(body["names"][:MAX_NAMED])
            worker.suspects[source] = f"it replaced {names}, and workers that load it take no dispatches"

    def given_up(self, worker: Worker) -> list[str]:
        """Handle an idle worker that is ended; return the paths of the bundles that are disabled because of it."""
        log.error("%s says that it lives, but starts nothing of what it is given; it is replaced", worker)
        again = worker.slot in self._slots and not worker.handled
        self._slots.add(worker.slot)
        if not again:
            return []
        suspects = worker.suspects or _only_bundle(worker)
        for source, reason in suspects.items():
            log.error("bundle %s is disabled until its files change or tykpy reload: %s", source.name, reason)
            self._loads.disable(source, reason)
        if not suspects:
            log.error("workers take no dispatches, again and again; which of their bundles does that is not known")
        return [source.path for source in suspects]


def _only_bundle(worker: Worker) -> dict[BundleVersion, str]:
    loaded = [bundle for bundle in worker.description if not bundle["error"]]
    if len(loaded) != 1:
        return {}
    (bundle,) = loaded
    source = BundleVersion(bundle["path"], bundle["name"], bundle["version"])
    return {source: "workers that load it take no dispatches, and it is the only one"}
