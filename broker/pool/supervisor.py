"""The pool: start workers, handle their messages, replace those that end, and stop them.

It never polls: it watches each worker's pidfd for its end, control socket for messages, and doorbell for answers.
Each slot has one worker, which is replaced when it ends; others may be starting to take its place (recycling, reload).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from tykpy.broker.catalog.api_table import ApiTable
from tykpy.broker.catalog.bundle_names import BundleNames
from tykpy.broker.catalog.description import Description, version_of
from tykpy.broker.catalog.loading import BundleLoads, IdleWorkers
from tykpy.broker.catalog.restoring import Restorer
from tykpy.broker.catalog.served import Served
from tykpy.broker.catalog.spread import Publisher, merged
from tykpy.broker.config import AUTO, MAX_WORKERS, BrokerConfig
from tykpy.broker.errors import ConfigError, NoWorkerError, WorkerStartError
from tykpy.broker.faults import Periodic, attempt, each
from tykpy.broker.host.descriptors import DescriptorReserve
from tykpy.broker.pool.backoff import BackOff
from tykpy.broker.pool.plugin_metrics import PluginMetrics
from tykpy.broker.pool.process import Ending, oom_kills
from tykpy.broker.pool.slots import FAILURES, RestartReason, SlotTotals
from tykpy.broker.pool.stacks import StackListener, StackRequests
from tykpy.broker.pool.starting import WorkerStarter
from tykpy.broker.pool.stopping import WorkerStopper, cause_of, dispatch_log, ending_of, what_ran
from tykpy.broker.pool.storage_report import StorageReport
from tykpy.broker.pool.worker import BundleVersion, Worker, WorkerOwner, WorkerPhase
from tykpy.broker.pool.worker_messages import read_message
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.broker.router.deaths import Death
from tykpy.broker.router.hook_table import NO_BUNDLE
from tykpy.broker.router.link import Link
from tykpy.broker.router.router import Router
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.channel.control import ControlMessage
from tykpy.ipc.errors import ControlClosedError, IpcError
from tykpy.telemetry.log import explain_in_log
from tykpy.telemetry.records import counted
from tykpy.telemetry.snapshot import StoreState

log = logging.getLogger("tykpy.supervisor")

REPLACE_DELAY: Final = 0.001
"""Seconds until a worker that died is replaced: starting a process takes milliseconds, and errors for its callers are
written at the end of the loop's turn. Measured: they arrive 6 ms earlier."""
MAX_FAULTS: Final = 3
"""Dispatches in a row that fail in a worker's own code until it is replaced."""
MEMORY_INTERVAL: Final = 1.0
"""Seconds between two reads of how many processes the machine has killed for lack of memory."""
LAST_MESSAGES: Final = frozenset(
    {"event", "events_lost", "metric", "metrics_dropped", "failed", "loading", "left_behind", "bundle", "gone"}
)
"""What is read from a worker's socket after its death."""
LAST_READS: Final = 16
"""Reads from a dead worker's socket: more than it can hold."""


class PoolEvents(NamedTuple):
    """Callbacks of the composition root."""

    ready: Callable[[int], object]
    """Called with the number of workers that are ready, when it may have changed."""
    hopeless: Callable[[], object]
    """Called when no worker can ever start; `Supervisor.hopeless` says why."""
    triggered: Callable[[str, Any], object]
    """Called with the name and body of a message about events that a worker's plugins triggered."""


class Supervisor:
    """Keeps `wanted` workers running and the router informed of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: BrokerConfig,
        router: Router,
        events: PoolEvents,
        bodies: BodyStore | None = None,
        zygotes: ZygoteKeeper | None = None,
    ) -> None:
        """`bodies`: where the front ends collect big requests. `zygotes`: forks workers (default: none are forked)."""
        self.wanted = config.workers
        """How many workers there should be."""
        self.ever_ready = False
        self.totals = SlotTotals()
        self.plugin_metrics = PluginMetrics()
        self.hopeless: NoWorkerError | None = None
        """Why no worker can ever start, once that is known."""
        self.request_limit: Callable[[], int] | None = None
        """Returns `Worker.request_limit` for a new worker."""
        self.on_request_limit: Callable[[Worker], None]
        """Called when a worker has answered that many dispatches."""
        self._loop = loop
        self._config = config
        self._router = router
        self._events = events
        self._zygotes = zygotes or ZygoteKeeper()
        self.loads = BundleLoads(loop, config)
        self.names = BundleNames(config.apis, loop, self._tell_names)
        router.hooks.note_api = self._note_api
        self._starter = WorkerStarter(config, self._zygotes, bodies, self.loads.messages, lambda: self.names.texts)
        self._apis = ApiTable()
        self._stacks = StackRequests(loop)
        self._storage = StorageReport(config.redis, config.runtime_dir)
        self._served = Served()
        self._idle_workers = IdleWorkers(self.loads)
        self._restorer = Restorer(loop, self)
        self._publisher = Publisher(router)
        self._back_off = BackOff()
        self._workers: dict[int, Worker] = {}
        """Every process alive, by generation."""
        self._by_slot: dict[int, Worker] = {}
        """The worker of each slot."""
        self._stopper = WorkerStopper(loop, config, router, self._workers, self._replace)
        router.watcher = self._stopper
        self._stopping = False
        self._all_gone: asyncio.Future[None] | None = None

    # -- what the composition root and the admin socket call ---

    def start(self) -> None:
        """Start all workers as soon as they can be forked; they join the router as they become ready."""
        Periodic(self._loop, MEMORY_INTERVAL, self._note_oom_kills).start()
        self._starter.saved.open()
        self.names.refresh()
        self._zygotes.watch(self._loop, self._config.ready_timeout, self._fill_all)
        self._keep_room()

    def scale(self, workers: int) -> None:
        """Change the number of workers; surplus ones finish what they run. Raises ConfigError."""
        if not 1 <= workers <= MAX_WORKERS:
            raise ConfigError(f"{workers} workers: must be between 1 and {MAX_WORKERS}")
        log.info("scaling from %d to %s", self.wanted, counted(workers, "worker"))
        self.wanted = workers
        for slot in [slot for slot in self._by_slot if slot >= workers]:
            self._back_off.forget(slot)
            self.retire(self._by_slot[slot])
        self._fill_all()
        self._events.ready(len(self._router.pool))

    async def stop(self) -> None:
        """Stop every worker: ask it to exit, then kill it."""
        self._stopping = True
        self._restorer.stop()
        if self._workers:
            self._all_gone = self._loop.create_future()
            await self._stopper.end_all(self._all_gone)
        self._starter.close()

    def reopen_logs(self) -> None:
        """Have every worker reopen the log file."""
        self._tell_all("reopen_log")

    def set_log_level(self, level: str) -> None:
        """Have every worker log from this level on."""
        self._tell_all("log_level", level)

    def ask_for_stacks(self, listener: StackListener, slot: int | None = None) -> None:
        """Tell the listener the stacks of all workers, or of those of one slot."""
        chosen = [worker for worker in self._workers.values() if slot in (None, worker.slot)]
        self._stacks.ask(sorted(chosen, key=lambda one: one.slot), listener)

    def describe(self) -> list[dict[str, Any]]:
        """Return the workers, for `tykpy status`."""
        return [worker.describe() for worker in sorted(self._workers.values(), key=lambda one: one.slot)]

    def describe_storage(self) -> dict[str, Any]:
        """Return the state of the plugins' storage, for `tykpy status`."""
        return self._storage.describe(worker.channel for worker in self._workers.values())

    def store_state(self) -> StoreState:
        """Return the state of the plugins' storage with its times, for a snapshot."""
        channels = [worker.channel for worker in self._workers.values()]
        state = self._storage.describe(channels)
        return StoreState(state["kind"], state["state"], state["errors"], self._storage.times(channels))

    @property
    def restarts(self) -> int:
        """Workers that were replaced because they ended or hung."""
        return self.totals.restarts(*FAILURES)

    # -- what recycling and reload call ---

    @property
    def reserve(self) -> DescriptorReserve:
        """The descriptors reserved for workers."""
        return self._starter.reserve

    @property
    def serving(self) -> list[Worker]:
        """The workers that get dispatches."""
        return [worker for worker in self._by_slot.values() if worker.phase is WorkerPhase.READY]

    @property
    def workers(self) -> Iterable[Worker]:
        """Every worker alive."""
        return self._workers.values()

    @property
    def served(self) -> Description:
        """What all serving workers together have loaded."""
        serving = self.serving
        return merged(serving) if serving else self._router.hooks.description

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The bundles that were served and that no serving worker could load, although their files are the same."""
        serving = self.serving
        if not any(worker.unsound for worker in serving):
            return []
        # One of several workers that have loaded the same is enough.
        return self._served.lost({worker.signature: worker.description for worker in serving}.values())

    def spawn(self, slot: int, owner: WorkerOwner, *, pinned: bool = True) -> Worker:
        """Start a worker for a slot that may have one already; the owner is told whether it becomes ready.

        `pinned`: it loads the versions of bundles that are served now, not what is in the folder.

        Raises WorkerStartError.
        """
        if self._stopping:
            raise WorkerStartError("the broker is stopping")
        worker = self._starter.start(slot, owner, pinned=pinned)
        try:
            self._watch(worker)
        except OSError as error:
            self._unwatch(worker)
            worker.end_now()
            raise WorkerStartError(f"no process can be watched: {error}") from error
        self._workers[worker.generation] = worker
        self._keep_room()
        return worker

    def admit(self, worker: Worker, reason: RestartReason = RestartReason.RELOAD) -> None:
        """Give dispatches to a worker that is ready; the one before it in its slot leaves, for this reason."""
        before = self._by_slot.get(worker.slot)
        self._by_slot[worker.slot] = worker
        worker.phase = WorkerPhase.READY
        worker.ready_at = time.monotonic()
        if self.request_limit is not None:
            worker.request_limit = self.request_limit()
        self.ever_ready = True
        assert worker.link is not None
        self._served.note(worker.description)
        self._publisher.report_saved(worker)
        self._update_saved()
        self._apis.introduce(worker)
        # Before it joins: neither worker of the slot may get dispatches that only others can run.
        if before is not None and before is not worker:
            self.totals.note_restart(worker.slot, reason)
            self.retire(before)
        self.learn()
        self._router.join(worker.link)
        if worker.slot >= self.wanted:
            self.retire(worker)
        self._restorer.changed()
        self._events.ready(len(self._router.pool))

    def admit_all(self, workers: Iterable[Worker]) -> None:
        """Give dispatches to new workers in place of all others; log what they have loaded together."""
        with self._publisher.together():
            each(self.admit, workers)

    def retire(self, worker: Worker) -> None:
        """Have a worker finish what it runs and exit, without a replacement."""
        if self._by_slot.get(worker.slot) is worker:
            del self._by_slot[worker.slot]
            self.learn()
        self._stopper.ask_to_leave(worker)

    def dismiss(self, worker: Worker, why: str) -> None:
        """End a worker that was not admitted."""
        worker.failure = why
        worker.end_patience()
        worker.process.kill()

    def broken(self, worker: Worker) -> list[str]:
        """Return what is served and this new worker could not load: that makes the reload fail."""
        return self._served.broken(worker.description, _exclusive(self.served))

    def take_over(self, baseline: Description) -> list[str]:
        """Return what the workers could not load although the previous program serves it; if nothing, take over.

        Bundles that only that program's workers can have are tried again until those have ended.
        """
        before = Served()
        before.note(baseline)
        served = self.served
        broken = before.broken(served, _exclusive(baseline))
        if not broken:
            self._served.note(before.lost([served]))
            self.learn()
            self._restorer.changed()
        return broken

    def renew(self, description: Description, *, pinned: bool) -> None:
        """Prepare for new workers that have loaded this and replace all others."""
        self._served.renew(description)
        self._restorer.start_afresh()
        if not pinned:
            self._publisher.start_afresh()

    def try_admit(self, worker: Worker, reason: RestartReason = RestartReason.RELOAD) -> bool:
        """Admit a worker that is ready, or dismiss it if it would serve less than the others do."""
        lacking = self._served.lacking(worker.description)
        if lacking and self.serving:
            log.error("%s is not let in, the others serve what it cannot load: %s", worker, "; ".join(lacking))
            self.dismiss(worker, "it could not load what the others serve: " + lacking[0])
            return False
        for problem in lacking:
            log.error("%s is let in all the same, no other serves: %s", worker, problem)
        served = {version_of(one.description) for one in self.serving} - {""}
        if served and version_of(worker.description) not in served:
            log.warning("%s has loaded other files than the others; `tykpy reload` brings all to the same", worker)
        self.admit(worker, reason)
        return True

    def learn(self) -> None:
        """Tell the router what the workers have loaded if that has changed."""
        self._publisher.publish(self.serving, self._restorer.awaited)

    def _note_api(self, api: str, bundle_hash: str) -> None:
        """Remember which bundle an API uses, from the first of its calls of each hook."""
        if bundle_hash not in NO_BUNDLE:
            self.names.note(api, bundle_hash)
        # Later, not in the middle of a dispatch; and to workers that serve then, as others are told when admitted.
        self._loop.call_soon(lambda: self._apis.note(api, bundle_hash, self.serving))

    def _tell_names(self, texts: Mapping[str, str]) -> None:
        explain_in_log(texts)
        self._tell_all("names", texts)

    def _tell_all(self, name: str, body: object = None) -> None:
        for worker in self._workers.values():
            try:
                worker.channel.control.send(name, body)
            except (IpcError, OSError) as error:
                log.debug("%s cannot be told %s: %s", worker, name, error)

    # -- the pool's own workers ---

    def worker_ready(self, worker: Worker) -> None:
        """Admit it, unless it would serve less than the others do."""
        self.try_admit(worker)

    def worker_lost(self, worker: Worker, why: str) -> None:
        """Start the next one; after a delay if it would load the same again."""
        if self._by_slot.get(worker.slot) is worker:
            del self._by_slot[worker.slot]
            if worker.retry_at_once:
                self._back_off.forget(worker.slot)
                self._loop.call_soon(self._fill, worker.slot)
            else:
                self._failed(worker.slot, why)

    def _update_saved(self) -> None:
        """Have new workers load what is served now, and remove copies that nobody uses."""
        used = [one for worker in self._workers.values() for one in worker.saved.items()]
        is_quiet = all(worker.link is not None for worker in self._workers.values())
        self._starter.saved.update(self._served.versions, used, is_quiet=is_quiet)

    def _note_oom_kills(self) -> None:
        count = oom_kills()
        for worker in self._workers.values():
            worker.process.note_oom_kills(count)

    def _fill_all(self) -> None:
        for slot in range(self.wanted):
            self._fill(slot)

    def _fill(self, slot: int) -> None:
        if self._stopping or slot >= self.wanted or slot in self._by_slot:
            return
        try:
            self._by_slot[slot] = self.spawn(slot, self)
        except WorkerStartError as error:
            self._failed(slot, str(error))

    def _failed(self, slot: int, why: str) -> None:
        delay = self._back_off.failed(slot)
        log.error("worker %d did not start: %s; next try in %.1f s", slot, why, delay)
        self._loop.call_later(delay, self._fill, slot)
        if self.hopeless is None and not self.ever_ready and self._back_off.hopeless(self.wanted):
            self.hopeless = NoWorkerError(f"no worker can start: {why}")
            self._router.give_up(str(self.hopeless))
            self._events.hopeless()

    def _replace(self, worker: Worker, reason: RestartReason) -> None:
        """Start the next worker for one that served and has ended, or is given up."""
        if self._by_slot.get(worker.slot) is not worker:
            return
        del self._by_slot[worker.slot]
        self.totals.note_restart(worker.slot, reason)
        for path in self._idle_workers.given_up(worker) if worker.idle else ():
            self._served.forget(path)
            self._back_off.forget(worker.slot)
        # A worker that hangs has run a dispatch.
        worked = worker.handled > 0 or (worker.phase is WorkerPhase.LEAVING and not worker.idle)
        delay = self._back_off.died(worker.slot, worked=worked, served=time.monotonic() - worker.ready_at)
        if delay:
            log.error("%s died before it answered anything, as others before it; next try in %.1f s", worker, delay)
            self._loop.call_later(delay, self._fill, worker.slot)
        else:
            self._loop.call_later(REPLACE_DELAY, self._fill, worker.slot)

    # -- messages of one worker ---

    def _watch(self, worker: Worker) -> None:
        control = worker.channel.control
        self._loop.add_reader(worker.process.pidfd, self._on_exit, worker)
        self._loop.add_reader(control.fileno(), self._on_control, worker)
        control.when_blocked(lambda: self._loop.add_writer(control.fileno(), self._on_writable, worker))
        self.loads.spawned(worker)

    def _unwatch(self, worker: Worker) -> None:
        worker.end_patience()
        for descriptor in (worker.process.pidfd, worker.channel.control.fileno(), worker.channel.answers_fd):
            self._loop.remove_reader(descriptor)
        self._loop.remove_writer(worker.channel.control.fileno())

    def _on_writable(self, worker: Worker) -> None:
        control = worker.channel.control
        try:
            if not control.flush():
                return
        except ControlClosedError as error:
            log.debug("%s does not listen any more: %s", worker, error)  # its end follows
        self._loop.remove_writer(control.fileno())

    def _on_control(self, worker: Worker) -> None:
        try:
            for message in worker.channel.control.receive():
                self._hear(worker, message)
        except ControlClosedError:
            self._loop.remove_reader(worker.channel.control.fileno())
        except (IpcError, ValueError) as error:
            log.error("%s wrote something that cannot be on its control socket: %r; killing it", worker, error)
            self._loop.remove_reader(worker.channel.control.fileno())
            worker.process.kill()

    def _on_message(self, worker: Worker, name: str, body: Any) -> None:
        if name == "ready":
            worker.learn()
            self._ready(worker)
        elif name == "loading":
            self.loads.loading(worker, BundleVersion(**body))
        elif name == "bundle":
            if body is not None:  # otherwise another piece of it follows
                self.loads.loaded(worker)
        elif name == "replaced":
            self._idle_workers.note_replaced(worker, body)
        elif name == "left_behind":
            self.loads.left_behind(worker, body)
        elif name == "gone":
            self.loads.loaded(worker)
        elif name == "pong":
            self._stopper.awake(worker)
        elif name == "stopping":
            self._stopper.stopping(worker)
        elif name == "leads":
            if worker.link is not None:
                self._router.relieved(worker.link)
        elif name == "stacks":
            self._stacks.answered(worker, body["text"])
        elif name == "metric":
            self.plugin_metrics.receive(worker.generation, body)
        elif name == "metrics_dropped":
            self.plugin_metrics.drop(**body)
        elif name == "failed":
            worker.failure = body["message"]
        else:
            self._events.triggered(name, body)

    def _hear(self, worker: Worker, message: ControlMessage) -> None:
        """Read a message (errors are the worker's fault) and act on it (errors are the broker's own)."""
        body = read_message(message)
        if message.name == "bundle":
            body = worker.described.add(body, len(message.packed))
        attempt(self._on_message, worker, message.name, body)

    def _hear_last_messages(self, worker: Worker) -> None:
        """Read what a dead worker had sent: events, metrics, and why it ended, in its own words or as a bundle."""
        try:
            for _ in range(LAST_READS):
                for message in worker.channel.control.receive():
                    if message.name in LAST_MESSAGES:
                        self._hear(worker, message)
        except (IpcError, ValueError) as error:
            log.debug("%s left nothing more on its control socket: %r", worker, error)
        worker.end_patience()

    def _ready(self, worker: Worker) -> None:
        if worker.phase is not WorkerPhase.STARTING or worker.failure is not None:
            return
        worker.end_patience()
        worker.phase = WorkerPhase.STANDBY
        worker.link = Link(
            worker.slot,
            worker.generation,
            worker.channel,
            self._config.most_threads,
            worker.process.pid,
            learns=self._config.threads == AUTO,
        )
        self._loop.add_reader(worker.channel.answers_fd, self._on_answers, worker)
        log.debug("%s is ready after %.0f ms", worker, worker.age * 1e3)
        worker.owner.worker_ready(worker)

    def _on_answers(self, worker: Worker) -> None:
        link = worker.link
        assert link is not None
        self._router.receive(link)
        if link.handled >= worker.request_limit:
            self.on_request_limit(worker)
        if link.faults >= MAX_FAULTS and worker.phase is WorkerPhase.READY:
            self._stopper.end_damaged(worker)

    def _on_exit(self, worker: Worker) -> None:
        """Fail a dead worker's calls; everything else waits until their errors are sent, at the end of the turn."""
        self._unwatch(worker)
        del self._workers[worker.generation]
        ending = ending_of(worker, self._config.limit_cpu)
        expected = self._stopping or worker.link is None
        is_idle = not worker.in_flight
        if worker.link is not None:
            expected |= worker.phase is WorkerPhase.LEAVING and not worker.link.in_flight
            attempt(self._report_death, worker, worker.link, ending)
        self._loop.call_soon(self._bury, worker, ending, logging.DEBUG if expected else logging.WARNING)
        if self._stopping:
            self._note_gone()
        elif worker.phase in (WorkerPhase.STARTING, WorkerPhase.STANDBY):
            self._hear_last_messages(worker)
            self.loads.ended(worker, ending)
            when = f"while it loaded bundle {worker.loading.name}" if worker.loading else "before it was ready"
            worker.owner.worker_lost(worker, worker.failure or f"it {ending.words} {when}")
        elif worker.phase is WorkerPhase.READY:
            if is_idle:
                self.loads.ended(worker, ending)
            self._replace(worker, RestartReason.OOM if ending.out_of_memory else RestartReason.CRASH)
        worker.phase = WorkerPhase.ENDED

    def _report_death(self, worker: Worker, link: Link, ending: Ending) -> None:
        channel = worker.channel
        answers = channel.drain()
        link.handled += len(answers)
        # If its ring is wrong, any of its dispatches may have run: none may run again.
        trusted = channel.corrupt is None and not link.distrusted
        death = Death(
            f"{worker} {ending.words}", cause_of(worker, link, ending), answers, channel.executing(), trusted=trusted
        )
        worker.ran, worker.ran_fields = what_ran(self._router.lost(link, death))

    def _bury(self, worker: Worker, ending: Ending, level: int) -> None:
        """Read a dead worker's last messages, log how it ended, and release its resources."""
        self._hear_last_messages(worker)
        words = f"{ending.words} ({worker.failure})" if worker.failure else ending.words
        dispatch_log.log(level, "%s %s%s", worker, words, worker.ran, fields=worker.ran_fields)
        if worker.channel.corrupt is not None:
            log.error("%s left a ring that cannot be read to its end: %s", worker, worker.channel.corrupt)
        worker.process.release()
        self._storage.note_end(worker.channel)
        self.totals.note_end(worker, time.monotonic_ns())
        worker.channel.close()
        self._keep_room()
        self._update_saved()
        if worker.link is not None:
            self.learn()
            self._restorer.changed()
            self._events.ready(len(self._router.pool))
        self.plugin_metrics.note_end(worker.generation, {bundle["name"] for bundle in self.served})

    def _keep_room(self) -> None:
        if not self._stopping:
            self._starter.keep_room(max(0, self.wanted - len(self._workers)))

    def _note_gone(self) -> None:
        if not self._workers and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)


def _exclusive(bundles: Description) -> set[str]:
    """Return the paths of bundles that perhaps only one worker can have: not all have it, or there is only one."""
    return {one["path"] for one in bundles if one["loaded_in"] < one["workers"] or one["workers"] == 1}
