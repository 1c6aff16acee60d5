"""Finds bundles that appear while the broker runs, and has new workers load them: no worker that serves imports one.

The folder is looked at every half second, and at once when a call names a bundle that no worker has: a gateway unpacks
a bundle and calls it in the next moment. Such a call waits, within its deadline, for the workers that load it.
"""

import asyncio
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from tykpy.broker.catalog.bundle_folder import MANIFEST_NAME, BundleFolder, Entries
from tykpy.broker.catalog.description import is_sound
from tykpy.broker.errors import ReloadError, WorkerStartError
from tykpy.broker.faults import Periodic
from tykpy.broker.pool.reload import Reloader
from tykpy.broker.pool.supervisor import Supervisor
from tykpy.broker.pool.worker import Worker
from tykpy.broker.router.router import Router

log = logging.getLogger("tykpy.discovery")

LOOK_INTERVAL: Final = 0.5
"""Seconds between two looks at the folder. An entry that is the same in both is complete."""
ASK_INTERVAL: Final = 0.1
"""Calls for bundles that no worker has cause one look in so many seconds, however many there are, and wait for it."""
FIRST_RETRY: Final = 5.0
LONGEST_RETRY: Final = 60.0
"""Seconds until a broken bundle whose files are as they were is tried again when it is called, doubled each time."""


class Discovery:
    """Compares what is in the folder with what the newest workers have found there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        folder: Path,
        supervisor: Supervisor,
        reloader: Reloader,
        router: Router,
        *,
        reloads: bool,
    ) -> None:
        """`reloads`: somebody else reloads bundles whose files change."""
        self._loop = loop
        self._reloads = reloads
        self._path = folder
        self._folder = BundleFolder(folder)
        self._supervisor = supervisor
        self._reloader = reloader
        self._router = router
        self._loaded: Entries = {}
        """What the newest workers have found."""
        self._last: Entries = {}
        """What the last look has found."""
        self._starting: Entries = {}
        """What workers that are starting find: they may still be refused."""
        self._changing: set[str] = set()
        """Broken bundles that changed while they were loaded the last time."""
        self._is_loading = self._waits = self._is_answering = False
        """New workers are loading; calls wait for them, or for the next look; those that waited are being placed."""
        self._is_called = False
        """A call came while calls wait: what it names may be newer than what is being loaded."""
        self._ask_at = self._load_at = 0.0
        """When the next call may cause a look, and when workers may be started again after some that failed to."""
        self._retry_at = loop.time() + FIRST_RETRY
        self._retry_delay = FIRST_RETRY
        self._unreadable = ""
        """Why the folder cannot be used, as the log says."""
        self._told: Entries = {}
        """Changed entries that the log tells of."""
        router.hooks.ask = self.ask
        reloader.on_generation, reloader.on_taken_over = self._note_start, self._note_loaded

    def start(self) -> None:
        """Look again and again from now on; workers that are started afterwards load what is there now."""
        self._note_start()
        self._note_loaded()
        Periodic(self._loop, LOOK_INTERVAL, self._look).start()

    def _note_start(self) -> None:
        """New workers are about to load what is in the folder."""
        self._supervisor.names.refresh()
        self._last = self._folder.look(again=self._last)
        self._tell_unreadable()
        self._starting = {name: stamp for name, stamp in self._last.items() if self._folder.is_whole(name)}

    def _note_loaded(self) -> None:
        """They have taken over."""
        self._loaded, self._told = self._starting, {}
        self._leave_changing()

    def _leave_changing(self) -> None:
        """Take no bundle for mended that changes each time that it is loaded: it writes into its own folder.

        One that changed for the first time may have been written to by somebody else. What is left alone is tried again
        when it is called (`_try`).
        """
        broken = self._broken()
        now = self._folder.look(again=broken)
        changed = {name for name in broken if name in now and now[name] != self._loaded.get(name)}
        self._loaded = {**self._loaded, **{name: now[name] for name in changed & self._changing}}
        self._changing = changed

    def unloaded(self) -> dict[str, str]:
        """Return the entries of the folder that no worker has loaded or tried to, and why."""
        described = {_name(bundle["path"]) for bundle in self._supervisor.served}
        return {name: self._why_unloaded(name) for name in self._last if name not in described and self._matters(name)}

    def _matters(self, name: str) -> bool:
        # A `.py` file that workers have looked into and do not describe has no hooks, and is no bundle.
        return bool(name) and not (name.endswith(".py") and name in self._loaded)

    def _why_unloaded(self, name: str) -> str:
        if not self._folder.is_whole(name):
            return f"no {MANIFEST_NAME} in it (yet)"
        return (
            "new workers are loading it"
            if self._is_loading
            else "not loaded yet; tykpy reload loads it, or says why not"
        )

    def ask(self, is_broken: bool) -> bool:
        """A call names a bundle that no worker has, or that is broken; returns whether it is to wait.

        It is looked for at once, and where that was done a moment ago, a moment later.
        """
        if self._is_answering or self._waits:
            self._is_called = self._waits
            return self._waits
        now = self._loop.time()
        if now < self._ask_at:
            self._wait()
            self._loop.call_at(self._ask_at, self._look_for_calls, is_broken)
        else:
            self._ask_at = now + ASK_INTERVAL
            self._look_for(is_broken)
        return self._waits

    def _look_for_calls(self, is_broken: bool) -> None:
        self._ask_at = self._loop.time() + ASK_INTERVAL
        is_coming = False
        try:
            is_coming = self._is_loading or self._look_for(is_broken)
        finally:
            if not is_coming:
                self._answer()

    def _look_for(self, is_broken: bool) -> bool:
        """Have what is new loaded, if there is something; returns whether there is."""
        now = self._loop.time()
        if now < self._load_at:
            return False
        self._last = self._folder.look(again=self._unknown(self._last))
        if names := self._unloaded(self._last):
            self._load(names, "called, and not loaded yet")
        elif is_broken and now >= self._retry_at and (broken := self._retriable()):
            names = sorted(map(_name, broken))
            self._begin(f"a new worker tries {', '.join(names)} again: called, and broken before")
            self._loop.call_soon(self._try)
        return self._is_loading

    def _look(self) -> None:
        before, self._last = self._last, self._folder.look(again=self._unknown(self._last))
        self._tell_unreadable()
        complete = {name: stamp for name, stamp in self._last.items() if before.get(name) == stamp}
        if self._is_loading or self._reloader.under_way or self._loop.time() < self._load_at:
            return
        if names := self._unloaded(complete):
            self._load(names, "new in the folder")
        elif not self._reloads:
            self._tell_changed(complete)

    def _unknown(self, found: Entries) -> list[str]:
        """Return the entries that workers have not loaded, or not as they are."""
        return [name for name, stamp in found.items() if self._loaded.get(name) != stamp]

    def _unloaded(self, found: Entries) -> list[str]:
        """Return the entries that new workers would load and those that serve have not: new ones, and mended ones."""
        unknown = self._unknown(found)
        broken = self._broken() if unknown else ()
        return [
            name for name in unknown if (name not in self._loaded or name in broken) and self._folder.is_whole(name)
        ]

    def _load(self, names: Collection[str], why: str) -> None:
        self._supervisor.names.refresh()
        self._begin(f"new workers load {', '.join(sorted(names))}: {why}")
        self._loop.call_soon(self._start)

    def _begin(self, what: str) -> None:
        # Workers are started later: this may be within a call of a gateway.
        log.info("%s", what)
        self._is_loading = True
        self._wait()

    def _start(self) -> None:
        self._reloader.request(lambda outcome: self._end(not isinstance(outcome, ReloadError)), pinned=True)

    def _end(self, loaded: bool) -> None:
        now = self._loop.time()
        self._is_loading = False
        if not loaded:
            self._load_at = now + self._retry_delay
        self._retry_delay = min(self._retry_delay * 2, LONGEST_RETRY) if self._broken() else FIRST_RETRY
        self._retry_at = now + self._retry_delay
        is_called, self._is_called = self._is_called, False
        if not (loaded and is_called and self._look_for(is_broken=False)):
            self._answer()

    # -- calls that wait --

    def _wait(self) -> None:
        if not self._waits:
            self._waits = True
            self._router.await_bundles(True)

    def _answer(self) -> None:
        """Have the calls that wait answered by workers, whatever these have loaded."""
        self._waits = False
        self._is_answering = True
        self._router.await_bundles(False)
        self._is_answering = False

    # -- one worker that tries whether a broken bundle can be loaded by now --

    def _try(self) -> None:
        try:
            self._supervisor.spawn(0, self)
        except WorkerStartError as error:
            self.worker_lost(None, str(error))

    def worker_ready(self, worker: Worker) -> None:
        """See what it has loaded; it never gets a dispatch."""
        broken = self._retriable()
        self._supervisor.retire(worker)
        if any(bundle["path"] in broken and is_sound(bundle) for bundle in worker.description):
            self._start()
        else:
            self._leave_changing()
            self._end(loaded=True)

    def worker_lost(self, worker: Worker | None, why: str) -> None:
        """Leave everything as it is."""
        log.error("broken bundles cannot be tried again: %s", why)
        self._end(loaded=True)

    def _retriable(self) -> set[str]:
        """Return the paths of broken bundles that may load another time, although their files are as they were."""
        bundles = self._supervisor.served
        barred = self._supervisor.loads.is_barred
        return {one["path"] for one in bundles if not is_sound(one) and not barred(one["path"])}

    def _broken(self) -> list[str]:
        """Return the names of the entries that the workers cannot use, or not all of."""
        return [_name(one["path"]) for one in self._supervisor.served if not _is_whole(one)]

    def _tell_unreadable(self) -> None:
        """Say once that the folder itself cannot be used."""
        why = self._folder.unreadable
        if why and why != self._unreadable:
            log.warning("--bundles %s: %s", self._path, why)
        self._unreadable = why

    def _tell_changed(self, complete: Entries) -> None:
        for name in self._unknown(complete):
            if self._told.get(name) != complete[name]:
                self._told = {**self._told, name: complete[name]}
                log.warning("bundle %s has changed on disk; `tykpy reload` serves it as it is now", name)


def _is_whole(bundle: dict[str, Any]) -> bool:
    return is_sound(bundle) and bundle["state"] != "incomplete"


def _name(path: str) -> str:
    return os.path.basename(path)
