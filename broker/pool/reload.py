"""Reload: a whole new generation of workers with the bundles now on disk takes over, or nothing changes.

New bundles are loaded in the same way, without changing those that are served already (`pinned`).

All new workers must be ready, and none may lack what the old ones serve, before the first of them gets a dispatch. Then
all of them are admitted and all old ones leave, in one turn of the loop. Listening sockets are not touched.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from tykpy.broker.catalog.description import BundleChange, Description, compare
from tykpy.broker.catalog.spread import Loaded, spread_of
from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ReloadError, WorkerStartError
from tykpy.broker.faults import attempt, each, report
from tykpy.broker.pool.supervisor import Supervisor
from tykpy.broker.pool.worker import Worker
from tykpy.broker.router.router import Router
from tykpy.telemetry.records import counted

log = logging.getLogger("tykpy.reload")

MAX_NAMED: Final = 5
"""Problems in one line of the log (the answer of `tykpy reload` has them all)."""

ReloadOutcome = dict[str, Any] | ReloadError
ReloadListener = Callable[[ReloadOutcome], None]


class Generation:
    """The new workers of one reload, until they are admitted or dismissed."""

    def __init__(self, supervisor: Supervisor, done: Callable[[ReloadError | None], None], *, pinned: bool) -> None:
        """`pinned`: load only what is new from the folder, and what is served already as it is."""
        self._supervisor = supervisor
        self.pinned = pinned
        self._done = done
        self._workers: list[Worker] = []
        self._waiting = 0
        self._over = False

    def start(self) -> None:
        """Start a worker for every slot."""
        try:
            for slot in range(self._supervisor.wanted):
                self._workers.append(self._supervisor.spawn(slot, self, pinned=self.pinned))
                self._waiting += 1
        except WorkerStartError as error:
            self._refuse(ReloadError(f"a new worker cannot be started: {error}"))

    @property
    def description(self) -> Description:
        """What its workers together have loaded."""
        classes = {worker.signature: Loaded([], worker.description) for worker in self._workers}
        return spread_of(list(classes.values())).description

    def worker_ready(self, worker: Worker) -> None:
        """Count a ready worker; when it is the last, the generation is done."""
        if self._over:
            return
        damage = self._supervisor.broken(worker)
        if damage:
            self._refuse(ReloadError("what is served now would break", damage))
            return
        self._waiting -= 1
        if not self._waiting:
            self._over = True
            self._done(None)

    def worker_lost(self, worker: Worker, why: str) -> None:
        """Refuse the generation, or start the worker again if the next one loads differently."""
        if self._over:
            return
        if not worker.retry_at_once:
            self._refuse(ReloadError(f"a new worker did not start: {why}"))
            return
        try:
            self._workers[self._workers.index(worker)] = self._supervisor.spawn(worker.slot, self, pinned=self.pinned)
        except WorkerStartError as error:
            self._refuse(ReloadError(f"a new worker cannot be started: {error}"))

    def take_over(self) -> None:
        """Admit all its workers; the old ones leave."""
        self._supervisor.renew(self.description, pinned=self.pinned)
        self._supervisor.admit_all(self._workers)

    def _refuse(self, error: ReloadError) -> None:
        self._over = True
        for worker in self._workers:
            self._supervisor.dismiss(worker, "its generation was refused")
        self._done(error)


class Reloader:
    """Runs one reload at a time; requests during one get the next, as files may have changed since it started."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: BrokerConfig, supervisor: Supervisor, router: Router
    ) -> None:
        self.last: dict[str, Any] | None = None
        """How the last reload ended, for `tykpy status`."""
        self.results: dict[str, int] = {"ok": 0, "refused": 0}
        """Reloads by result."""
        self.on_generation: Callable[[bool], object] = lambda _pinned: None
        """Called before new workers load bundles, with `pinned` as for `request`."""
        self.on_generation_end: Callable[[bool, bool], object] = lambda _pinned, _taken_over: None
        """Called when new workers have replaced all others, or were refused."""
        self.on_start: Callable[[], object] = lambda: None
        self.on_end: Callable[[], object] = lambda: None
        self._loop = loop
        self._config = config
        self._supervisor = supervisor
        self._router = router
        self._generation: Generation | None = None
        self._listeners: list[ReloadListener] = []
        self._next: list[ReloadListener] = []
        self._next_is_pinned = True
        """Whether all requests for the next generation are pinned."""
        self._started = 0.0

    @property
    def under_way(self) -> bool:
        """Whether a new generation is starting or taking over."""
        return self._generation is not None

    def request(self, listener: ReloadListener | None = None, *, pinned: bool = False) -> None:
        """Reload; the listener is called with what was loaded, or a ReloadError.

        `pinned`: load bundles that are new in the folder, and leave those that are served as they are.
        """
        self._next.append(listener or (lambda _outcome: None))
        self._next_is_pinned &= pinned
        if self._generation is None:
            self._start()

    def _start(self) -> None:
        self._listeners, self._next = self._next, []
        pinned, self._next_is_pinned = self._next_is_pinned, True
        self._started = time.monotonic()
        self._generation = Generation(self._supervisor, self._on_done, pinned=pinned)
        attempt(self.on_generation, pinned)
        if not pinned:
            log.info("reloading: starting %s", counted(self._supervisor.wanted, "new worker"))
            self._supervisor.loads.forget()
            attempt(self.on_start)
        folder = self._config.bundles
        if folder is not None and not folder.is_dir():
            self._on_done(ReloadError(f"{folder}: no such folder"))
        else:
            self._generation.start()

    def _on_done(self, error: ReloadError | None) -> None:
        generation, self._generation = self._generation, None
        assert generation is not None
        try:
            outcome = error or self._take_over(generation)
        except Exception as fault:  # noqa: BLE001 (listeners are told, and the next reload can start)
            report(fault)
            outcome = ReloadError(f"the broker failed to take it over: {type(fault).__name__}: {fault}")
        attempt(self.on_generation_end, generation.pinned, not isinstance(outcome, ReloadError))
        self._note(outcome, generation.pinned)
        each(lambda listener: listener(outcome), self._listeners)
        if self._next:
            # Not from here: the workers of a refused generation have this call on their stack.
            self._loop.call_soon(self._start_next)

    def _note(self, outcome: ReloadOutcome, pinned: bool) -> None:
        seconds = round(time.monotonic() - self._started, 3)
        if isinstance(outcome, ReloadError):
            what = "new bundles are not loaded" if pinned else "reload refused, the old version goes on"
            log.error("%s: %s", what, outcome.brief(MAX_NAMED))
            last = {"ok": False, "why": str(outcome), "seconds": seconds}
        else:
            outcome["seconds"] = seconds
            last = {"ok": True, **outcome}
        if not pinned:
            self.last = last
            self.results["ok" if last["ok"] else "refused"] += 1
            attempt(self.on_end)

    def _start_next(self) -> None:
        if self._generation is None and self._next:
            self._start()

    def _take_over(self, generation: Generation) -> dict[str, Any]:
        before = self._supervisor.served
        if not generation.pinned:
            self._router.quarantine.clear()
        generation.take_over()
        changes = compare(before, generation.description)
        news = [one for one in changes if not generation.pinned or one.change != "same"]
        what = "loaded" if generation.pinned else "reloaded"
        log.info("%s: %s", what, _in_words(news))
        return {"workers": self._supervisor.wanted, "bundles": [_as_map(change) for change in changes]}


def _in_words(changes: Iterable[BundleChange]) -> str:
    texts: tuple[list[str], list[str]] = [], []
    for one in changes:
        texts[bool(one.problems)].append(f"{one.name} {one.change}")
    sound, broken = map(", ".join, texts)
    return (sound or "no bundles") + (f"; not loaded completely: {broken}" if broken else "")


def _as_map(change: BundleChange) -> dict[str, Any]:
    return {**change._asdict(), "problems": list(change.problems), "hashes": list(change.hashes)}
