"""The broker's view of one ready worker: its channel, what it has in flight, and whether it takes more."""

import time
from typing import Final, Protocol

from tykpy.broker.router.cpu_use import CpuUse
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import ASYNC, BLOCKING, WHOLE, HookTimes
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.errors import IpcError
from tykpy.ipc.frame import SPLIT_ABOVE, pack_frame
from tykpy.ipc.ring.layout import FLAG_RECORD, FLAG_RETRY, FLAG_SHARES

PREFETCH: Final = 24
"""Most dispatches that may wait in a worker's ring behind the ones its threads run.

Measured at 64 streams and 2 workers: 45,000/s with 8, 47,000/s with 16, 57,000/s with 24. The budget below bounds what
a long hook may hold back.
"""
PREFETCH_BUDGET_NS: Final = 3_000_000
"""Nothing is prefetched behind more expected computing than this: what would wait for a long hook waits in the broker's
queue instead, where any worker can take it. Measured: below 1 ms, one wake-up per dispatch becomes the larger cost."""
MOSTLY_WAITING: Final = 4
"""Calls of a hook of which a worker can run this many at a time count as no computing at all. What little each computes
is known too badly to be summed up: beside hooks that compute, one that sleeps 20 ms seemed to compute 3 ms, and a mix
of both ran at 0.75 of what the best fixed number of threads reaches, instead of 0.9."""
ASYNC_LIMIT: Final = 48
"""Most dispatches of `async def` hooks in flight at one worker."""


def most_blocking(threads: int, *, learns: bool) -> int:
    """Return the maximum number of dispatches of blocking hooks that a link has in flight; see `Link`."""
    return max(threads, 1 + PREFETCH) if learns else threads + PREFETCH


class LinkWatcher(Protocol):
    """Callbacks by which the router reports workers that are in trouble."""

    def overdue(self, link: "Link") -> None:
        """Handle a worker with a hook that runs past its limit."""

    def gone(self, link: "Link") -> None:
        """Handle a worker that has closed its end of the channel; it gets nothing more."""

    def silent(self, link: "Link") -> None:
        """Handle a worker that does not start its dispatches; it gets nothing more until `Router.awake`."""

    def corrupt(self, link: "Link", error: IpcError) -> None:
        """Handle a worker that wrote something impossible; it gets nothing more, and must be ended."""


class Link:
    """The link to one worker generation. Times are CLOCK_MONOTONIC ns.

    Dispatches of blocking hooks start at once while those that run leave some of the worker to others
    (`HookTimes.share`) and a thread is free.
    """

    __slots__ = (
        "_backlog_ns",
        "_budget_ns",
        "_busy_from_ns",
        "_busy_ns",
        "_fault_seq",
        "_flags",
        "_missed_mark",
        "_missed_since",
        "_most",
        "_neglected",
        "_share",
        "_taken",
        "asked",
        "channel",
        "cpu",
        "distrusted",
        "faults",
        "generation",
        "groups",
        "handled",
        "in_flight",
        "learns",
        "loads",
        "missed",
        "neglectful",
        "open",
        "overdue",
        "pid",
        "progress_ns",
        "silent",
        "slot",
        "stalled",
        "threads",
    )

    def __init__(
        self, slot: int, generation: int, channel: BrokerChannel, threads: int, pid: int, *, learns: bool = False
    ) -> None:
        """`learns`: learn how many hooks run at the same time; otherwise it is always the number of threads."""
        self.slot = slot
        self.generation = generation
        self.channel = channel
        self.threads = threads
        self.pid = pid
        self.learns = learns
        self.cpu = CpuUse(pid)
        self.in_flight: dict[int, Dispatch] = {}
        """By sequence number; a completed dispatch stays until the worker is done with it."""
        self.handled = 0
        """Answers received."""
        self.faults = 0
        """Dispatches in a row that failed in tykpy's own code."""
        self._fault_seq = 0
        self.loads = [0, 0]
        """Dispatches in flight per lane."""
        self.groups: tuple[int, ...] = ()
        """Numbers of the groups that this worker belongs to (see `HookTable.groups`)."""
        self.open = False
        """Whether it takes dispatches: it is ready, does not drain, and nothing is overdue."""
        self.stalled = False
        """Whether what it runs takes so long that the rest was taken back; nothing is prefetched until it answers."""
        self.asked = False
        """Whether it was asked to let another thread lead, because its hooks seem to wait."""
        self.neglectful = False
        """Whether it leaves dispatches unstarted although a thread should be free; it gets no more until it answers."""
        self._neglected = (0, 0)
        self.silent = False
        """Whether it has started none of its dispatches, and has not answered a ping since."""
        self.distrusted = False
        """Whether it wrote something impossible, and is being ended."""
        self.overdue: set[int] = set()
        """Sequence numbers that run past their deadline."""
        self.missed = 0
        """How often it has started none of its dispatches, since it last started or answered anything."""
        self._missed_since = 0
        self._missed_mark: tuple[int, frozenset[int]] | None = None
        self.progress_ns = 0
        """When it last answered, or was last given something while idle."""
        self._busy_ns = 0
        self._busy_from_ns = 0
        """When it was last given something while idle."""
        self._backlog_ns = 0
        self._budget_ns = PREFETCH_BUDGET_NS if learns else PREFETCH_BUDGET_NS * threads
        self._most = (1 if learns else threads) + PREFETCH
        self._taken = 0
        """The sum of the shares of what it has in flight."""
        self._share = -(-WHOLE // threads)
        self._flags = FLAG_SHARES if threads > 1 else 0

    def accepts(self, lane: int) -> bool:
        """Return whether one more dispatch of this lane would start at once, or soon enough."""
        if not self.open or self.silent:
            return False
        if lane == ASYNC:
            return self.loads[ASYNC] < ASYNC_LIMIT
        load = self.loads[BLOCKING]
        if self._taken < WHOLE and load < self.threads:
            return not self.neglectful
        return not self.stalled and load < self._most and self._backlog_ns < self._budget_ns

    @property
    def has_room(self) -> bool:
        """Whether one more dispatch of a blocking hook would start at once."""
        return self.accepts(BLOCKING) and self._taken < WHOLE and self.loads[BLOCKING] < self.threads

    @property
    def is_full(self) -> bool:
        """Whether its dispatches in flight are expected to keep it busy, however many threads it has."""
        return self._taken >= WHOLE

    def send(self, dispatch: Dispatch, seq: int) -> None:
        """Publish the dispatch on the worker's ring; `channel.ring()` tells the worker.

        Raises ipc.errors.MessageTooLargeError, with nothing sent.
        """
        hook = dispatch.hook
        assert hook is not None
        times, body = hook.times, dispatch.body
        share, flags = (times.share, times.flags) if self.learns else (self._share, self._flags)
        if type(body) is bytes and len(body) > SPLIT_ABOVE:
            dispatch.body = body = self.channel.bodies.put(body) or body
        if dispatch.retried:
            flags |= FLAG_RETRY
        if dispatch.recorded:
            flags |= FLAG_RECORD
        trace = dispatch.trace
        carrier = None if trace is None else trace.carrier
        self.channel.send(seq, pack_frame(dispatch.kind, dispatch.metadata, body, carrier), dispatch.deadline_ns, flags)
        if trace is not None:
            trace.sent(self.slot)
        if not self.in_flight:
            self.progress_ns = self._busy_from_ns = time.monotonic_ns()
        dispatch.seq = seq
        dispatch.link = self
        dispatch.worker = self.slot
        self.in_flight[seq] = dispatch
        self.loads[hook.lane] += 1
        if hook.lane == BLOCKING:
            dispatch.share = share
            dispatch.cost_ns = self._cost(times, share)
            self._taken += share
            self._backlog_ns += dispatch.cost_ns

    def _cost(self, times: HookTimes, share: int) -> int:
        """Return for how long a dispatch delays those that are prefetched behind it."""
        if not self.learns:
            return times.expected_ns
        return times.expected_ns - times.waiting_ns if share * MOSTLY_WAITING > WHOLE else 0

    def finish(self, seq: int) -> Dispatch | None:
        """Stop counting a dispatch, and return it; return None if the number is not in flight here."""
        dispatch = self.in_flight.pop(seq, None)
        if dispatch is None:
            return None
        hook = dispatch.hook
        assert hook is not None
        self.loads[hook.lane] -= 1
        if hook.lane == BLOCKING:
            self._backlog_ns -= dispatch.cost_ns
            self._taken -= dispatch.share
        dispatch.link = None
        if not self.in_flight:
            self._busy_ns += self.progress_ns - self._busy_from_ns
        return dispatch

    def note_fault(self, seq: int) -> None:
        """Note that a dispatch failed in tykpy's own code in the worker."""
        self.faults = self.faults + 1 if seq - self._fault_seq <= 1 else 1
        self._fault_seq = seq

    def receive(self) -> list[Answer]:
        """Return the answers that the worker has announced."""
        self.wake()
        answers = self.channel.receive()
        self.handled += len(answers)
        return answers

    def wake(self) -> None:
        """Note a sign of life from the worker."""
        self.stalled = self.silent = self.asked = self.neglectful = False
        self.progress_ns = time.monotonic_ns()

    def miss(self, now: int) -> None:
        """Note that it has started none of its dispatches, although it could."""
        mark = self.handled, self.channel.executing()
        if mark != self._missed_mark:
            self.missed, self._missed_mark, self._missed_since = 0, mark, now
        self.missed += 1

    def busy_ns(self, now: int) -> int:
        """Return for how long it has had at least one dispatch."""
        return self._busy_ns + (now - self._busy_from_ns if self.in_flight else 0)

    def idle_ns(self, now: int) -> int:
        """Return for how long it has started none of its dispatches."""
        return now - self._missed_since if self.missed else 0

    def has_free_thread(self) -> bool:
        """Return whether the hooks that it reports as running leave a thread and part of the worker to others."""
        running = self.running()
        return sum(one.share for one in running) < WHOLE and len(running) < self.threads

    def neglected_ns(self, now: int) -> int:
        """Return for how long the same dispatch has stayed unstarted at the head of its ring."""
        waiting = self.in_flight.keys() - self.channel.executing()
        first = min(waiting, default=0)
        if first != self._neglected[0]:
            self._neglected = first, now
        return now - self._neglected[1] if first else 0

    def running(self) -> list[Dispatch]:
        """Return the dispatches of blocking hooks that it reports as running."""
        running = [self.in_flight[seq] for seq in self.channel.executing() if seq in self.in_flight]
        return [one for one in running if one.hook is not None and one.hook.lane == BLOCKING]

    def waits(self, dispatch: Dispatch, elapsed_ns: int) -> None:
        """Note that a running dispatch has only waited so far: it takes less of the worker than expected."""
        assert dispatch.hook is not None
        dispatch.hook.times.see_waiting(elapsed_ns)
        share = min(dispatch.share, dispatch.hook.times.share)
        self._taken += share - dispatch.share
        dispatch.share = share

    def take_back(self) -> list[Dispatch]:
        """Revoke and return every dispatch that the worker has not started, oldest first; it never sees any of them."""
        taken = [dispatch for seq in self.channel.revoke() if (dispatch := self.finish(seq)) is not None]
        for dispatch in taken:
            dispatch.seq = 0
        return taken

    def __str__(self) -> str:
        return f"worker {self.slot} (process {self.pid})"
