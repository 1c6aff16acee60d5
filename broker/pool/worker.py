"""What the supervisor knows about one worker."""

import asyncio
import sys
import time
from enum import Enum
from typing import Any, NamedTuple, Protocol

from tykpy.broker.catalog.description import Description, DescriptionBuilder, is_sound, signature_of, version_of
from tykpy.broker.config import MAX_THREADS
from tykpy.broker.pool.process import WorkerProcess
from tykpy.broker.router.link import Link
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.telemetry.records import NO_FIELDS, Fields


class WorkerPhase(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    STANDBY = "standby"
    """Ready, and waiting to be admitted."""
    READY = "ready"
    """Receives dispatches."""
    LEAVING = "leaving"
    """Receives no more dispatches, and exits when those it has are done."""
    ENDED = "ended"


class BundleVersion(NamedTuple):
    """A bundle that a worker is about to load."""

    path: str
    name: str
    version: str
    """Hash of the bundle's files."""


class BrokenBundle(NamedTuple):
    """A bundle that ended or hung a worker."""

    source: BundleVersion
    reason: str
    versions: int
    """How many versions of the bundle did so."""
    wait: float = 0.0
    """Seconds to watch it when it is loaded again; 0: it did so before it was loaded."""


class LeftBehind(NamedTuple):
    """What a bundle has left running in a worker that has loaded it."""

    source: BundleVersion
    what: str
    """The kinds of it, in words."""
    since: float
    """When the bundle was loaded (monotonic seconds)."""


class WorkerOwner(Protocol):
    """The part of the broker that started a worker; exactly one of these methods is called, once."""

    def worker_ready(self, worker: "Worker") -> None:
        """Admit the worker or dismiss it."""

    def worker_lost(self, worker: "Worker", why: str) -> None:
        """Handle the end of a worker that was not admitted yet."""


class Worker:
    """One process, its channel, and the timers that wait for it."""

    def __init__(
        self, slot: int, generation: int, channel: BrokerChannel, process: WorkerProcess, owner: WorkerOwner
    ) -> None:
        self.slot = slot
        self.generation = generation
        self.channel = channel
        self.process = process
        self.owner = owner
        self.link: Link | None = None
        """Set once it is ready."""
        self.phase = WorkerPhase.STARTING
        self.started = time.monotonic()
        self.ready_at = 0.0
        """When it was admitted (monotonic seconds)."""
        self.described = DescriptionBuilder()
        """The parts of its description that have arrived so far."""
        self.description: Description = []
        """The bundles and hooks that it has loaded."""
        self.signature = signature_of([])
        """Equal for workers that have loaded the same."""
        self.loading: BundleVersion | None = None
        """The bundle that it is loading."""
        self.left_behind: dict[str, LeftBehind] = {}
        """What bundles have left running in it, by path, as they were loaded."""
        self.watches: dict[str, float] = {}
        """Seconds by path, of bundles that it loads first, and watches, as they may have ended another worker."""
        self.retry_at_once = False
        """Whether to start the next worker without a delay: it loads other bundles, or in another order."""
        self.unsound: Description = []
        """The bundles that it could not load completely."""
        self.saved: dict[str, str] = {}
        """Versions, by path, of bundles that it loaded from the broker's saved copies."""
        self.request_limit = sys.maxsize
        """Answers after which it is to be replaced."""
        self.patience: asyncio.TimerHandle | None = None
        """Runs out when the worker is not ready, or has not loaded a bundle, in time."""
        self.ending: asyncio.TimerHandle | None = None
        """Runs out at the end of a hung worker's grace period."""
        self.failure: str | None = None
        """Why it does not start or is ended, in words."""
        self.stopping_until: float | None = None
        """When its bundles must have stopped (monotonic seconds); None: they have not begun to."""
        self.idle = False
        """Whether it is being replaced because it starts none of the dispatches that it is given."""
        self.suspects: dict[BundleVersion, str] = {}
        """Bundles that may make it idle, and why."""
        self.stopped = False
        """Whether it was stopped (SIGSTOP) when it was past a deadline."""
        self.ran = ""
        """What it ran when it died, in words that continue a sentence: ` while it ran hook check of bundle a.py`."""
        self.ran_fields: Fields = NO_FIELDS
        """The fields of log records about that."""
        self.blamed = False
        """Whether the broker ends it for what its hooks do, so that they are to blame for its death."""

    @property
    def left_by_others(self) -> list[LeftBehind]:
        """What bundles other than the one that it is loading have left running, the latest first."""
        loading = self.loading.path if self.loading else None
        return [one for path, one in reversed(self.left_behind.items()) if path != loading]

    @property
    def handled(self) -> int:
        """Number of dispatches that it has answered."""
        return self.link.handled if self.link else 0

    def busy_ns(self, now_ns: int) -> int:
        """Return for how long it has had at least one dispatch."""
        return self.link.busy_ns(now_ns) if self.link else 0

    @property
    def in_flight(self) -> int:
        """Number of dispatches that it has received and not answered."""
        return len(self.link.in_flight) if self.link else 0

    @property
    def threads(self) -> int:
        """Number of its threads for hooks, as it reports it."""
        return min(self.channel.hook_threads(), MAX_THREADS)

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def learn(self) -> None:
        """Record what it has described by now as what it has loaded."""
        self.description = self.described.bundles
        self.signature = signature_of(self.description)
        self.unsound = [bundle for bundle in self.description if not is_sound(bundle)]
        self.saved = {bundle["path"]: bundle["version"] for bundle in self.description if bundle["saved_copy"]}

    def wait(self, patience: asyncio.TimerHandle) -> None:
        """Replace the timer of the current start-up step with that of the next one."""
        if self.patience is not None:
            self.patience.cancel()
        self.patience = patience

    def end_patience(self) -> None:
        """Cancel the timers that wait for the worker to be ready, or to recover."""
        for timer in (self.patience, self.ending):
            if timer is not None:
                timer.cancel()
        self.patience = self.ending = None

    def end_now(self) -> None:
        """Kill a worker that nobody watches, wait for its end and release its resources."""
        self.process.kill()
        self.process.release()
        self.channel.close()

    def describe(self) -> dict[str, Any]:
        """Return the worker's row of `tykpy status`."""
        return {
            "slot": self.slot,
            "generation": self.generation,
            "pid": self.process.pid,
            "state": self.phase.value,
            "in_flight": self.in_flight,
            "handled": self.handled,
            "threads": self.threads,
            "age_s": round(self.age, 3),
            "bundles_version": version_of(self.description),
        }

    def __str__(self) -> str:
        return f"worker {self.slot} (process {self.process.pid})"
