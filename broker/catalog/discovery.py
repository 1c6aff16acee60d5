"""Find bundles that appear or change while the broker runs, and have new workers load them.

No worker that serves imports a new bundle. The folder is checked every half second, and at once when a call names a
bundle that no worker has: a gateway unpacks a bundle and calls it a moment later. Such a call waits, within its
deadline, for the workers that load it. Changed bundles are loaded only with `--reload`.
"""

import asyncio
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tykpy.broker.catalog.bundle_folder import MANIFEST_NAME, BundleFolder, Entries, Stamp
from tykpy.broker.catalog.description import is_sound
from tykpy.broker.errors import ReloadError, WorkerStartError
from tykpy.broker.faults import Periodic
from tykpy.broker.pool.reload import Reloader
from tykpy.broker.pool.supervisor import Supervisor
from tykpy.broker.pool.worker import Worker
from tykpy.broker.router.router import Router
from tykpy.ipc.description import MAX_PATH
from tykpy.ipc.text import bounded

log = logging.getLogger("tykpy.discovery")

LOOK_INTERVAL: Final = 0.5
"""Seconds between two checks of the folder. An entry that is the same in both is complete."""
ASK_INTERVAL: Final = 0.1
"""Seconds between two checks caused by calls for bundles that no worker has, however many calls there are."""
FIRST_RETRY: Final = 5.0
LONGEST_RETRY: Final = 60.0
"""Seconds until a call may have a broken bundle with unchanged files tried again, doubled each time."""


class Discovery:
    """Compares the folder with what the newest workers found in it."""

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
        """`reloads`: reload when files of loaded bundles change (`--reload`), instead of only logging the change."""
        self._loop = loop
        self._reloads = reloads
        self._path = folder
        self._folder = BundleFolder(folder)
        self._supervisor = supervisor
        self._reloader = reloader
        self._router = router
        self._loaded: Entries = {}
        """The bundles that the newest workers found."""
        self._last: Entries = {}
        """The bundles that the last check found."""
        self._last_periodic: Entries = {}
        """The bundles that the last periodic check found, one that no call or generation caused."""
        self._starting: Entries = {}
        """The bundles that starting workers find; they may still be refused."""
        self._self_written: set[str] = set()
        """Entries that changed while they were last loaded."""
        self._reported: dict[str, Stamp | None] = {}
        """Changes that were logged, or that a reload was requested for."""
        self._is_loading = False
        """New workers are loading, or are about to."""
        self._waits = False
        """Calls wait for new workers, or for the next check."""
        self._is_answering = False
        """The calls that waited are being placed."""
        self._is_called = False
        """A call came while calls wait: its bundle may be newer than what is being loaded."""
        self._ask_at = 0.0
        """When the next call may cause a check (loop time)."""
        self._load_at = 0.0
        """When workers may be started again after some that failed (loop time)."""
        self._retry_at = loop.time() + FIRST_RETRY
        self._retry_delay = FIRST_RETRY
        self._unreadable = ""
        """Why the folder cannot be used, as last logged."""
        router.hooks.ask = self.ask
        reloader.on_generation, reloader.on_generation_end = self._note_start, self._note_end

    def start(self) -> None:
        """Check periodically from now on. Workers that are started after this load what is there now."""
        self._note_start(pinned=False)
        self._loaded = self._starting
        Periodic(self._loop, LOOK_INTERVAL, self._look).start()

    def unloaded(self) -> dict[str, str]:
        """Return the entries that no worker has loaded or tried to load, and why not."""
        described = {_name(bundle["path"]) for bundle in self._supervisor.served}
        missing = [name for name in self._last if _described(name) not in described and self._matters(name)]
        return {name: self._why_unloaded(name) for name in missing}

    def ask(self, is_broken: bool) -> bool:
        """Handle a call for a bundle that no worker has, or that is broken; return whether the call is to wait.

        Check for the bundle at once or, if there was a check a moment ago, a moment later.
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

    # -- generations of workers --

    def _note_start(self, pinned: bool) -> None:
        """Record what new workers are about to load; if they are `pinned`, that is what is served, and what is new."""
        self._supervisor.names.refresh()
        self._last = self._folder.look(again=self._last)
        self._warn_unreadable()
        served = self._loaded.keys() - self._broken() if pinned else ()
        found = {name: stamp for name, stamp in self._last.items() if self._folder.is_whole(name)}
        self._starting = {**found, **{name: self._loaded[name] for name in served}}

    def _note_end(self, pinned: bool, taken_over: bool) -> None:
        """Record what the workers that serve now have loaded, if the new ones took over."""
        if taken_over:
            self._loaded = self._starting
        if taken_over and not pinned:
            self._reported = {}
        self._skip_self_written(self._starting, taken_over)

    def _skip_self_written(self, before: Entries, taken_over: bool) -> None:
        """Ignore that a bundle has changed since `before` if it changes each time it is loaded.

        It writes into its own folder. After the first such change somebody else may have written to it, so that one
        counts. A broken bundle that is ignored is tried again when it is called (`_try`).
        """
        watched = before if self._reloads else self._broken()
        now = self._folder.look(again=watched)
        changed = {name for name in watched if name in now and now[name] != before.get(name)}
        ignored = {name: now[name] for name in changed & self._self_written}
        if taken_over:
            self._loaded = {**self._loaded, **ignored}
        else:
            self._reported.update(ignored)
        self._self_written = changed

    # -- checks --

    def _look(self) -> None:
        before = self._last_periodic
        again = self._last if self._reloads else self._unknown(self._last)
        self._last = self._last_periodic = self._folder.look(again)
        self._warn_unreadable()
        complete = {name: stamp for name, stamp in self._last.items() if before.get(name) == stamp}
        if self._is_loading or self._reloader.under_way:
            return
        if self._reloads and self._reload_changed(complete, before):
            return
        if self._loop.time() < self._load_at:
            return
        if names := self._unloaded(complete):
            self._load(names, "new in the folder")
        elif not self._reloads:
            self._warn_changed(complete)

    def _reload_changed(self, complete: Entries, before: Entries) -> bool:
        """Reload if loaded entries have changed or gone, but once for each change; return whether it does."""
        changes: dict[str, Stamp | None] = {
            name: complete[name] for name in self._unknown(complete) if name in self._loaded
        }
        changes |= dict.fromkeys(self._loaded.keys() - self._last.keys() - before.keys())
        if all(name in self._reported and self._reported[name] == stamp for name, stamp in changes.items()):
            return False
        self._reported = changes
        self._reloader.request()
        return True

    def _look_for_calls(self, is_broken: bool) -> None:
        self._ask_at = self._loop.time() + ASK_INTERVAL
        is_coming = False
        try:
            is_coming = self._is_loading or self._look_for(is_broken)
        finally:
            if not is_coming:
                self._answer()

    def _look_for(self, is_broken: bool) -> bool:
        """Have new entries loaded, complete or not, and broken ones tried again; return whether there are any."""
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

    def _unknown(self, found: Entries) -> list[str]:
        """Return the entries that workers have not loaded, or not as they are now."""
        return [name for name, stamp in found.items() if self._loaded.get(name) != stamp]

    def _unloaded(self, found: Entries) -> list[str]:
        """Return the entries that new workers would load and serving ones have not: new and repaired ones."""
        unknown = self._unknown(found)
        broken = self._broken() if unknown else ()
        return [
            name for name in unknown if (name not in self._loaded or name in broken) and self._folder.is_whole(name)
        ]

    def _broken(self) -> list[str]:
        """Return the names of the entries that the workers could not load, or not completely."""
        bundles = self._supervisor.served
        broken = {_name(one["path"]) for one in bundles if not is_sound(one) or one["state"] == "incomplete"}
        return [name for name in {**self._loaded, **self._last} if _described(name) in broken]

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

    # -- loading --

    def _load(self, names: Collection[str], why: str) -> None:
        self._supervisor.names.refresh()
        self._begin(f"new workers load {', '.join(sorted(map(self._shown, names)))}: {why}")
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
        """Have workers answer the waiting calls, whatever they have loaded."""
        self._waits = False
        self._is_answering = True
        self._router.await_bundles(False)
        self._is_answering = False

    # -- one worker that checks whether a broken bundle can be loaded by now --

    def _try(self) -> None:
        try:
            self._supervisor.spawn(0, self)
        except WorkerStartError as error:
            self.worker_lost(None, str(error))

    def worker_ready(self, worker: Worker) -> None:
        """See what the worker has loaded; it never gets a dispatch."""
        broken = self._retriable()
        self._supervisor.retire(worker)
        if any(bundle["path"] in broken and is_sound(bundle) for bundle in worker.description):
            self._start()
        else:
            self._skip_self_written(self._loaded, taken_over=True)
            self._end(loaded=True)

    def worker_lost(self, worker: Worker | None, why: str) -> None:
        """Leave everything as it is."""
        log.error("broken bundles cannot be tried again: %s", why)
        self._end(loaded=True)

    def _retriable(self) -> set[str]:
        """Return the paths of broken bundles that may load another time with the same files."""
        barred = self._supervisor.loads.is_barred
        return {one["path"] for one in self._supervisor.served if not is_sound(one) and not barred(one["path"])}

    # -- the log --

    def _shown(self, name: str) -> str:
        """Return the name of an entry; the folder is one itself if it is a bundle."""
        return name or self._path.name

    def _warn_unreadable(self) -> None:
        """Log once that the folder itself cannot be used."""
        why = self._folder.unreadable
        if why and why != self._unreadable:
            log.warning("--bundles %s: %s", self._path, why)
        self._unreadable = why

    def _warn_changed(self, complete: Entries) -> None:
        for name in self._unknown(complete):
            # What was never loaded is a folder that somebody has begun to fill.
            if name in self._loaded and self._reported.get(name) != complete[name]:
                self._reported[name] = complete[name]
                log.warning("bundle %s has changed on disk; `tykpy reload` serves it as it is now", self._shown(name))


def _name(path: str) -> str:
    return os.path.basename(path)


def _described(name: str) -> str:
    """Return an entry's name as in the paths of descriptions, which are text that any message can carry."""
    return bounded(name, MAX_PATH)
