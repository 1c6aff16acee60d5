"""The pool: starts workers, hears from them, replaces the ones that end, and ends the ones that hang.

It never polls: a worker's end is its pidfd, its news is its control socket, its answers are its doorbell.
"""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from broker.config import BrokerConfig
from broker.errors import NoWorkerError
from broker.link import ASYNC_LIMIT, PREFETCH, Link
from broker.process import LifePipe, WorkerProcess
from broker.router import Router
from broker.worker import Worker, WorkerState
from ipc.channel import BrokerChannel, ChannelOptions
from ipc.errors import ControlClosedError, IpcError

log = logging.getLogger("tykpy.supervisor")

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
"""A worker that could not start is tried again after these many seconds, doubled each time."""
HOPELESS_FAILURES: Final = 3
"""Every slot must have failed so often, with no worker ever ready, before the broker gives up."""
STOP_GRACE: Final = 2.0
"""Seconds an idle worker gets to end by itself before it is killed."""
PONG_PATIENCE: Final = 1.0
"""Seconds that a worker gets to say that it lives, at least: the machine may be busy."""
CHECK_INTERVAL: Final = 0.05
"""Seconds between two looks at a worker that is to be ended once its other dispatches are done."""
RING_CAPACITY: Final = 2 * 1024 * 1024
"""Bytes per ring. Pages that no record has touched cost nothing."""
RECORD_ROUNDING: Final = 64
"""The largest record is a multiple of this many bytes."""


class PoolEvents(NamedTuple):
    """What the composition root wants to hear of."""

    ready: Callable[[int], object]
    """So many workers are ready now."""
    hopeless: Callable[[], object]
    """No worker can ever start; `Supervisor.hopeless` says why."""


def channel_options(threads: int, max_message: int) -> ChannelOptions:
    """The sizes of a channel on which all that a link may have in flight finds room (see `ChannelOptions.credits`)."""
    most = threads + PREFETCH + ASYNC_LIMIT
    max_record = RING_CAPACITY // (most + 2) // RECORD_ROUNDING * RECORD_ROUNDING
    return ChannelOptions(capacity=RING_CAPACITY, max_record=max_record, max_message=max_message)


class Supervisor:
    """Keeps `config.workers` workers running and the router informed of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: BrokerConfig,
        router: Router,
        events: PoolEvents,
    ) -> None:
        self.ever_ready = False
        self.restarts = 0
        self._loop = loop
        self._config = config
        self._router = router
        router.watcher = self
        self._events = events
        self._workers: dict[int, Worker] = {}
        self._generation = 0
        self._failures: dict[int, int] = {}
        self._epoch = secrets.randbits(63)
        self._stopping = False
        self._life = LifePipe()
        self._all_gone: asyncio.Future[None] | None = None
        self.hopeless: NoWorkerError | None = None
        """Why no worker can ever start, once that is known."""
        self._channel_options = channel_options(config.threads, config.max_message)

    # -- what the composition root calls ---

    def start(self) -> None:
        """Start all workers; they join the router as they become ready."""
        for slot in range(self._config.workers):
            self._spawn(slot)

    def overdue(self, link: Link) -> None:
        """A dispatch of this worker runs past its deadline: dump its stacks now, end it if it does not come back."""
        worker = self._workers.get(link.generation)
        if worker is None or worker.ending:
            return
        log.warning("%s is past a dispatch's deadline; its stacks follow", worker)
        worker.process.dump()
        worker.ending = self._loop.call_later(self._config.hang_grace, self._end_hung, worker)

    def silent(self, link: Link) -> None:
        """This worker does not start what it is given: ask it whether it lives, end it if it does not say so."""
        worker = self._workers.get(link.generation)
        if worker is None or worker.ending:
            return
        worker.ending = self._loop.call_later(max(self._config.hang_grace, PONG_PATIENCE), self._end_hung, worker)
        self._tell(worker, "ping")

    async def stop(self) -> None:
        """End every worker: those that are idle by themselves, those that are not by force."""
        self._stopping = True
        if self._workers:
            await self._end_all()
        self._life.close()

    def describe(self) -> list[dict[str, Any]]:
        """The workers, for `tykpy status`: slot, pid, state, dispatches in flight and handled."""
        return [worker.describe() for worker in sorted(self._workers.values(), key=lambda one: one.slot)]

    # -- one worker's life ---

    def _spawn(self, slot: int) -> None:
        if self._stopping:
            return
        self._generation += 1
        try:
            worker = self._open(slot, self._generation)
        except (OSError, IpcError) as error:
            log.error("worker %d cannot be started: %s", slot, error)
            self._failed(slot, str(error))
            return
        self._workers[worker.generation] = worker
        self._loop.add_reader(worker.process.pidfd, self._on_exit, worker)
        self._loop.add_reader(worker.channel.control.fileno(), self._on_control, worker)
        worker.patience = self._loop.call_later(self._config.ready_timeout, self._not_ready, worker)

    def _open(self, slot: int, generation: int) -> Worker:
        channel = BrokerChannel.create(slot, generation, self._epoch, self._channel_options)
        try:
            process = WorkerProcess(
                [channel.worker_argument(), str(self._life.reader)],
                [*channel.worker_fds, self._life.reader],
                os.environ,
            )
        except OSError:
            channel.close()
            raise
        finally:
            channel.close_worker_ends()
        worker = Worker(slot, generation, channel, process)
        try:
            channel.control.send("configure", self._worker_config())
        except (OSError, IpcError) as error:
            # It is gone already; the pidfd says so in a moment, and why is in its log.
            log.debug("%s does not listen: %s", worker, error)
        return worker

    def _worker_config(self) -> dict[str, Any]:
        # Over the socket, not in argv: the Redis URL may hold a password.
        config = self._config
        return {
            "bundles": str(config.bundles) if config.bundles else None,
            "runtime_dir": str(config.runtime_dir),
            "redis": config.redis,
            "threads": config.threads,
            "log_level": config.log_level,
        }

    def _on_control(self, worker: Worker) -> None:
        try:
            for message in worker.channel.control.receive():
                self._on_message(worker, message.name, message.body)
        except ControlClosedError:
            self._loop.remove_reader(worker.channel.control.fileno())
        except (IpcError, KeyError, TypeError, ValueError, AttributeError) as error:
            log.error("%s sent something on its control socket that is no message of ours: %r", worker, error)
            self._loop.remove_reader(worker.channel.control.fileno())
            worker.process.kill()

    def _on_message(self, worker: Worker, name: str, body: Any) -> None:
        if name == "ready":
            self._router.hooks.update(body["bundles"])
            self._ready(worker)
        elif name == "hooks":
            self._router.hooks.update(body["bundles"])
        elif name == "pong":
            self._awake(worker)
        elif name == "failed":
            worker.failure = str(body["message"])
        else:
            raise ValueError(f"unknown message {name!r}")

    def _ready(self, worker: Worker) -> None:
        worker.end_patience()
        worker.state = WorkerState.READY
        self.ever_ready = True
        self._failures.pop(worker.slot, None)
        link = Link(worker.slot, worker.generation, worker.channel, self._config.threads, worker.process.pid)
        worker.link = link
        self._loop.add_reader(worker.channel.answers_fd, self._on_answers, worker)
        log.debug("%s is ready after %.0f ms", worker, (time.monotonic() - worker.started) * 1e3)
        self._router.join(link)
        self._events.ready(len(self._router.pool))

    def _awake(self, worker: Worker) -> None:
        if worker.link is None or not worker.link.silent:
            return
        if worker.ending:
            worker.ending.cancel()
            worker.ending = None
        self._router.awake(worker.link)

    def _on_answers(self, worker: Worker) -> None:
        assert worker.link is not None
        try:
            self._router.receive(worker.link)
        except IpcError as error:
            log.error("%s wrote something on its ring that cannot be: %s; killing it", worker, error)
            self._loop.remove_reader(worker.channel.answers_fd)
            worker.process.kill()

    def _not_ready(self, worker: Worker) -> None:
        worker.failure = f"not ready after {self._config.ready_timeout:g} s (--ready-timeout)"
        worker.process.dump()
        self._loop.call_later(CHECK_INTERVAL, worker.process.kill)

    def _on_exit(self, worker: Worker) -> None:
        self._loop.remove_reader(worker.process.pidfd)
        self._loop.remove_reader(worker.channel.control.fileno())
        self._loop.remove_reader(worker.channel.answers_fd)
        worker.end_patience()
        del self._workers[worker.generation]
        how = worker.process.reap()
        if worker.link is not None:
            self._settle_death(worker, worker.link, how)
        worker.channel.close()
        if self._stopping:
            self._note_gone()
        elif worker.state is WorkerState.STARTING:
            self._failed(worker.slot, worker.failure or f"it {how} before it was ready")
        elif not worker.replaced:
            self.restarts += 1
            self._spawn(worker.slot)

    def _settle_death(self, worker: Worker, link: Link, how: str) -> None:
        if not self._stopping:
            log.warning("%s %s%s", worker, how, f" ({worker.failure})" if worker.failure else "")
        channel = worker.channel
        answers = channel.drain()
        executing = channel.executing()
        if channel.corrupt is not None:
            log.error("%s left a ring that cannot be read to its end: %s", worker, channel.corrupt)
            # Any of it may have run: nobody may run it again.
            executing = frozenset(link.in_flight)
        self._router.lost(link, answers, executing, f"{worker} {how}")
        self._events.ready(len(self._router.pool))

    def _failed(self, slot: int, why: str) -> None:
        failures = self._failures[slot] = self._failures.get(slot, 0) + 1
        delay = min(FIRST_DELAY * 2 ** (failures - 1), LONGEST_DELAY)
        log.error("worker %d did not start: %s; next try in %.1f s", slot, why, delay)
        self._loop.call_later(delay, self._spawn, slot)
        everywhere = all(self._failures.get(one, 0) >= HOPELESS_FAILURES for one in range(self._config.workers))
        if everywhere and not self.ever_ready and self.hopeless is None:
            self.hopeless = NoWorkerError(f"no worker can start: {why}")
            self._router.give_up(str(self.hopeless))
            self._events.hopeless()

    # -- ending one ---

    def _end_hung(self, worker: Worker) -> None:
        link = worker.link
        worker.ending = None
        if link is None or worker.generation not in self._workers or not (link.overdue or link.silent):
            return
        self._router.leave(link)
        worker.replaced = True
        self.restarts += 1
        self._spawn(worker.slot)
        self._kill_when_alone(worker)

    def _kill_when_alone(self, worker: Worker) -> None:
        # Other threads and coroutines of the worker finish first; each has a deadline of its own.
        link = worker.link
        if link is None or worker.generation not in self._workers:
            return
        if set(link.in_flight) - link.overdue:
            self._loop.call_later(CHECK_INTERVAL, self._kill_when_alone, worker)
        else:
            log.warning("%s hangs; killing it", worker)
            worker.process.kill()

    async def _end_all(self) -> None:
        self._all_gone = self._loop.create_future()
        for worker in tuple(self._workers.values()):
            self._ask_to_leave(worker)
        try:
            await asyncio.wait_for(asyncio.shield(self._all_gone), STOP_GRACE)
        except TimeoutError:
            for worker in self._workers.values():
                log.warning("%s did not end by itself; killing it", worker)
                worker.process.kill()
            await self._all_gone

    def _ask_to_leave(self, worker: Worker) -> None:
        worker.end_patience()
        if worker.link is not None:
            self._router.leave(worker.link)
        self._tell(worker, "drain")

    def _tell(self, worker: Worker, name: str) -> None:
        try:
            worker.channel.control.send(name)
        except (OSError, IpcError) as error:
            log.warning("%s does not listen any more (%s); killing it", worker, error)
            worker.process.kill()

    def _note_gone(self) -> None:
        if not self._workers and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)
