"""End workers: ask them to finish what they run, kill those that hang, and find out which hooks are to blame."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tykpy.broker.config import BrokerConfig
from tykpy.broker.faults import attempt
from tykpy.broker.observe.access_log import dispatch_fields
from tykpy.broker.pool.process import CPU_ENDING, Ending
from tykpy.broker.pool.slots import RestartReason
from tykpy.broker.pool.worker import Worker, WorkerPhase
from tykpy.broker.router.deaths import Cause
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.link import Link
from tykpy.broker.router.router import Router
from tykpy.ipc.errors import IpcError
from tykpy.ipc.exits import ON_STOP_S
from tykpy.telemetry.log import Log
from tykpy.telemetry.records import NO_FIELDS, Fields

log = logging.getLogger("tykpy.supervisor")
dispatch_log: Final = Log(log.name)
"""For records about a dispatch."""

STOP_GRACE: Final = 2.0
"""Seconds that an idle worker has to exit before it is killed."""
PONG_PATIENCE: Final = 1.0
"""Least seconds that a worker has to answer a ping: the machine may be busy."""
IDLE_MISSES: Final = 5
"""Times in a row that a worker must start none of its dispatches before it is replaced although it answers pings."""
DUMP_TIME: Final = 0.5
"""Seconds that an idle worker has to write its stacks; it has been replaced already."""
CHECK_INTERVAL: Final = 0.05
"""Seconds between two checks whether the other dispatches of a hung worker are done."""
RENEWAL_SLACK: Final = 0.5
"""Seconds: a worker renews its limit of CPU time when a dispatch starts, but not for each one (see rlimits.py)."""


class WorkerStopper:
    """Ends workers; the router reports those that are in trouble."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: BrokerConfig,
        router: Router,
        workers: Mapping[int, Worker],
        replace: Callable[[Worker, RestartReason], None],
    ) -> None:
        """`workers`: the live workers by generation. `replace`: called for one that hangs or is idle."""
        self._loop = loop
        self._config = config
        self._router = router
        self._workers = workers
        self._replace = replace
        self._idle_after = max(config.hang_grace, PONG_PATIENCE)
        """Seconds after which a worker that starts nothing is replaced even if it answers pings."""

    # -- in trouble ---

    def overdue(self, link: Link) -> None:
        """Handle a dispatch past its deadline: dump the worker's stacks, and end it if it does not recover in time."""
        worker = self._workers.get(link.generation)
        if worker is None or worker.ending:
            return
        worker.stopped |= worker.process.is_stopped
        why = ": somebody has stopped it (SIGSTOP)" if worker.stopped else "; its stacks follow"
        dispatch = _overdue_dispatch(link)
        what = dispatch.title if dispatch is not None else "a dispatch"
        fields = _fields_of_overdue(link, dispatch) if dispatch is not None else NO_FIELDS
        dispatch_log.log(logging.WARNING, "%s", f"{worker} is past the deadline of {what}{why}", fields=fields)
        worker.process.dump()
        worker.ending = self._loop.call_later(self._config.hang_grace, self._end_hung, worker)

    def silent(self, link: Link) -> None:
        """Ping a worker that does not start its dispatches, and end it if it does not answer."""
        worker = self._workers.get(link.generation)
        if worker is None or worker.ending:
            return
        if link.missed >= IDLE_MISSES and link.idle_ns(time.monotonic_ns()) >= self._idle_after * 1e9:
            self._end_idle(worker)
            return
        worker.ending = self._loop.call_later(self._idle_after, self._end_hung, worker)
        self._tell(worker, lambda: worker.channel.control.send("ping"))

    def corrupt(self, link: Link, error: IpcError) -> None:
        """Kill a worker that wrote something impossible; nothing it writes counts any more."""
        worker = self._workers.get(link.generation)
        if worker is None:
            return
        log.error("%s wrote something that cannot be: %s; killing it", worker, error)
        self._loop.remove_reader(worker.channel.answers_fd)
        worker.blamed = True
        worker.process.kill()

    def gone(self, link: Link) -> None:
        """Kill a worker whose end of the channel is closed, should it still be alive."""
        worker = self._workers.get(link.generation)
        if worker is not None:
            worker.process.kill()

    def end_damaged(self, worker: Worker) -> None:
        """Replace a worker in which tykpy's own code fails: a hook may have replaced what it needs."""
        assert worker.link is not None
        why = f"{worker.link.faults} dispatches in a row failed in tykpy's own code"
        log.error("%s is replaced: %s; a hook may have changed what that needs", worker, why)
        attempt(self.ask_to_leave, worker)
        self._replace(worker, RestartReason.CRASH)

    def awake(self, worker: Worker) -> None:
        """Handle a pong."""
        link = worker.link
        if link is None:
            return
        if worker.ending and not link.overdue:
            # Also if it has answered a dispatch since: it may be silent again when this runs out.
            worker.ending.cancel()
            worker.ending = None
        if link.silent:
            self._router.awake(link)

    def _end_hung(self, worker: Worker) -> None:
        link = worker.link
        worker.ending = None
        if link is None or worker.generation not in self._workers or not (link.overdue or link.silent):
            return
        worker.phase = WorkerPhase.LEAVING
        # Set this first: the worker is killed even if passing on its dispatches fails.
        self._loop.call_soon(self._kill_when_alone, worker)
        attempt(self._router.leave, link)
        self._replace(worker, RestartReason.HANG)

    def _end_idle(self, worker: Worker) -> None:
        """Replace a worker that answers pings and starts nothing; kill it when it has written its stacks."""
        assert worker.link is not None
        worker.idle = True
        worker.phase = WorkerPhase.LEAVING
        worker.process.dump()
        self._loop.call_later(DUMP_TIME, self._kill_when_alone, worker)
        attempt(self._router.leave, worker.link)
        self._replace(worker, RestartReason.HANG)

    def _kill_when_alone(self, worker: Worker) -> None:
        # Other threads and coroutines of the worker finish first; each has a deadline of its own.
        link = worker.link
        if link is None or worker.generation not in self._workers:
            return
        # An idle worker never runs what it has claimed and does not run yet.
        if (link.channel.executing() if worker.idle else link.in_flight.keys()) - link.overdue:
            self._loop.call_later(CHECK_INTERVAL, self._kill_when_alone, worker)
        else:
            worker.stopped |= worker.process.is_stopped
            log.warning("%s hangs; killing it", worker)
            worker.process.kill()

    # -- asked to leave ---

    def ask_to_leave(self, worker: Worker) -> None:
        """Give a worker nothing more; it finishes its running dispatches and exits."""
        worker.phase = WorkerPhase.LEAVING
        if worker.link is None:
            worker.end_patience()
        else:
            self._router.leave(worker.link)
        self._tell(worker, worker.channel.start_drain)
        self._loop.call_later(STOP_GRACE, self._kill_when_done, worker)

    def _kill_when_done(self, worker: Worker) -> None:
        """Kill a worker that has nothing left to do; its dispatches' deadlines limit how long that takes."""
        if worker.generation not in self._workers:
            return
        if (worker.link is not None and worker.link.in_flight) or self._is_stopping(worker):
            self._loop.call_later(STOP_GRACE, self._kill_when_done, worker)
        else:
            log.warning("%s did not end by itself; killing it", worker)
            worker.process.kill()

    def stopping(self, worker: Worker) -> None:
        """Give a worker that has nothing left to do the time to stop its bundles, once."""
        if worker.phase is WorkerPhase.LEAVING and worker.stopping_until is None:
            worker.stopping_until = self._loop.time() + ON_STOP_S + STOP_GRACE

    def _is_stopping(self, worker: Worker) -> bool:
        return worker.stopping_until is not None and self._loop.time() < worker.stopping_until

    async def end_all(self, all_gone: asyncio.Future[None]) -> None:
        """End every worker, by force after STOP_GRACE and the time to stop bundles; `all_gone` is set by the reaper."""
        for worker in tuple(self._workers.values()):
            worker.end_patience()
            self.ask_to_leave(worker)
        while not all_gone.done():
            await asyncio.wait((all_gone,), timeout=STOP_GRACE)
            for worker in self._workers.values():
                if not self._is_stopping(worker):
                    log.warning("%s did not end by itself; killing it", worker)
                    worker.process.kill()

    def _tell(self, worker: Worker, send: Callable[[], object]) -> None:
        try:
            send()
        except (OSError, IpcError) as error:
            log.warning("%s does not listen any more (%s); killing it", worker, error)
            worker.process.kill()


# -- blame: only if the cause is known ---


def ending_of(worker: Worker, limit_cpu: int) -> Ending:
    """Return how a worker ended, and whether by itself or because somebody sent it a signal.

    `limit_cpu`: seconds of CPU time that it may use for a dispatch; 0: no limit.
    """
    ending = worker.process.ending()
    if worker.link is None:
        return ending
    if worker.channel.was_signalled():
        return Ending(f"{ending.words}, which it was sent", by_itself=None)
    if ending.words.startswith(CPU_ENDING) and not _may_have_used(limit_cpu, worker.link):
        return Ending(f"{CPU_ENDING}, which it was sent", by_itself=False)
    return ending


def cause_of(worker: Worker, link: Link, ending: Ending) -> Cause:
    """Return whether the hooks that a worker ran caused its end."""
    if link.overdue:
        return Cause.UNKNOWN if worker.stopped else Cause.HANG
    if worker.blamed or ending.by_itself:
        return Cause.CRASH
    return Cause.UNKNOWN if ending.by_itself is None else Cause.OUTSIDE


def _may_have_used(cpu_seconds: int, link: Link) -> bool:
    """Return whether the dispatches that the worker ran can have used that much CPU time."""
    started = [link.channel.execution_started_ns(seq) for seq in link.channel.executing()]
    longest = max((time.monotonic_ns() - at for at in started), default=0) / 1e9
    return bool(cpu_seconds) and (longest + RENEWAL_SLACK) * (os.cpu_count() or 1) >= cpu_seconds


def what_ran(dispatches: Sequence[Dispatch]) -> tuple[str, Fields]:
    """Say what a worker ran when it died, in words that continue a sentence, and as fields of a log record."""
    if not dispatches:
        return "", NO_FIELDS
    first, *others = dispatches
    more = f" and {len(others)} more" if others else ""
    return f" while it ran {first.title}{more}", NO_FIELDS if first.hook is None else dispatch_fields(
        first, first.hook.stats
    )


def _overdue_dispatch(link: Link) -> Dispatch | None:
    """Return the dispatch that has made a worker overdue."""
    return next((link.in_flight[seq] for seq in link.overdue if seq in link.in_flight), None)


def _fields_of_overdue(link: Link, dispatch: Dispatch) -> Fields:
    """Return the fields of a record about a dispatch that is past its deadline."""
    if dispatch.hook is None:
        return NO_FIELDS
    started = link.channel.execution_started_ns(dispatch.seq) or dispatch.taken_ns
    duration_ms = (time.monotonic_ns() - started) // 1_000 / 1_000
    return dispatch_fields(dispatch, dispatch.hook.stats) | {"duration_ms": duration_ms}
