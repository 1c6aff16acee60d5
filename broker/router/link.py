"""The broker's view of one ready worker: its channel, what it has in flight, and whether it takes more."""

import time
from typing import Final

from tykpy.broker.router.cpu_use import CpuUse
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_times import WHOLE, HookTimes
from tykpy.broker.router.queue import ASYNC, BLOCKING
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.frame import SPLIT_ABOVE, pack_frame
from tykpy.ipc.ring.layout import FLAG_SHARES

PREFETCH: Final = 24
"""Most dispatches that may wait in a worker's ring behind the ones its threads run.

Measured at 64 streams and 2 workers: 45,000/s with 8, 47,000/s with 16, 57,000/s with 24. What a long hook may
hold back is bounded by the budget below.
"""
PREFETCH_BUDGET_NS: Final = 3_000_000
"""Nothing is prefetched behind more expected computing than this: a long hook's neighbours wait in the broker's
queue, where any worker can take them. Measured: below 1 ms, one wake-up per dispatch becomes the larger cost."""
MOSTLY_WAITING: Final = 4
"""A worker that can run so many calls of a hook at a time is kept from starting others by none of them: what little
they compute is not known well enough to be summed up."""
ASYNC_LIMIT: Final = 48
"""Most dispatches of `async def` hooks in flight at one worker."""


def most_blocking(threads: int, *, learns: bool) -> int:
    """Most dispatches of hooks that block which a link has in flight; see `Link`."""
    return max(threads, 1 + PREFETCH) if learns else threads + PREFETCH


class Link:
    """One worker generation. Times are CLOCK_MONOTONIC ns.

    Dispatches of hooks that block start at once while they leave some of the worker to others (`HookTimes.share`) and a
    thread is free.
    """

    __slots__ = (
        "_backlog_ns",
        "_budget_ns",
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
        """`learns`: how many hooks run at the same time is learned; otherwise always as many as there are threads."""
        self.slot = slot
        self.generation = generation
        self.channel = channel
        self.threads = threads
        self.pid = pid
        self.learns = learns
        self.cpu = CpuUse(pid)
        self.in_flight: dict[int, Dispatch] = {}
        """By sequence number; a settled dispatch stays until the worker is done with it."""
        self.handled = 0
        """Answers received."""
        self.loads = [0, 0]
        """Dispatches in flight per lane."""
        self.groups: tuple[int, ...] = ()
        """Of the workers that have loaded what others have not, those that this one belongs to (see `HookTable`)."""
        self.open = False
        """Takes dispatches: ready, not draining, nothing overdue."""
        self.stalled = False
        """Its execution outlasted the prefetch; nothing more is sent behind it until it answers."""
        self.asked = False
        """To let another thread lead: its hooks seem to wait."""
        self.neglectful = False
        """It leaves what it was given although a thread should be free: it gets nothing more until it answers."""
        self._neglected = (0, 0)
        self.silent = False
        """Started nothing of what it was given, and has not said since that it lives."""
        self.distrusted = False
        """Wrote something that cannot be: it is being ended."""
        self.overdue: set[int] = set()
        """Sequence numbers that run past their deadline."""
        self.missed = 0
        """How often it started nothing of what it was given, since it last started or answered anything."""
        self._missed_since = 0
        self._missed_mark: tuple[int, frozenset[int]] | None = None
        self.progress_ns = 0
        """When it last answered, or was last given something while idle."""
        self._backlog_ns = 0
        self._budget_ns = PREFETCH_BUDGET_NS if learns else PREFETCH_BUDGET_NS * threads
        self._most = (1 if learns else threads) + PREFETCH
        self._taken = 0
        """Of the worker, by what it has in flight: the sum of the shares."""
        self._share = -(-WHOLE // threads)
        self._flags = FLAG_SHARES if threads > 1 else 0

    def accepts(self, lane: int) -> bool:
        """Whether one more dispatch of this lane would start at once, or soon enough."""
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
        """Whether one more dispatch of a hook that blocks would start at once."""
        return self.accepts(BLOCKING) and self._taken < WHOLE and self.loads[BLOCKING] < self.threads

    @property
    def is_full(self) -> bool:
        """Whether what it has in flight is expected to keep it busy, however many threads it has."""
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
        self.channel.send(seq, pack_frame(dispatch.kind, dispatch.metadata, body), dispatch.deadline_ns, flags)
        if not self.in_flight:
            self.progress_ns = time.monotonic_ns()
        dispatch.seq = seq
        dispatch.link = self
        self.in_flight[seq] = dispatch
        self.loads[hook.lane] += 1
        if hook.lane == BLOCKING:
            dispatch.share = share
            dispatch.cost_ns = self._cost(times, share)
            self._taken += share
            self._backlog_ns += dispatch.cost_ns

    def _cost(self, times: HookTimes, share: int) -> int:
        """For how long what is prefetched behind a dispatch waits for it."""
        if not self.learns:
            return times.expected_ns
        return times.expected_ns - times.waiting_ns if share * MOSTLY_WAITING > WHOLE else 0

    def finish(self, seq: int) -> Dispatch | None:
        """Take a dispatch off the books; None where the number is not in flight here."""
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
        return dispatch

    def receive(self) -> list[Answer]:
        """The answers the worker has rung for."""
        self.wake()
        answers = self.channel.receive()
        self.handled += len(answers)
        return answers

    def wake(self) -> None:
        """The worker has shown that it lives."""
        self.stalled = self.silent = self.asked = self.neglectful = False
        self.progress_ns = time.monotonic_ns()

    def miss(self, now: int) -> None:
        """It has started nothing of what it was given, although it could."""
        mark = self.handled, self.channel.executing()
        if mark != self._missed_mark:
            self.missed, self._missed_mark, self._missed_since = 0, mark, now
        self.missed += 1

    def idle_ns(self, now: int) -> int:
        """For how long it has missed whatever it was given."""
        return now - self._missed_since if self.missed else 0

    def has_free_thread(self) -> bool:
        """Whether it says that what it runs leaves some of it to others, and a thread."""
        running = self.running()
        return sum(one.share for one in running) < WHOLE and len(running) < self.threads

    def neglected_ns(self, now: int) -> int:
        """For how long it was seen to leave the same dispatch at the head of its ring."""
        waiting = self.in_flight.keys() - self.channel.executing()
        first = min(waiting, default=0)
        if first != self._neglected[0]:
            self._neglected = first, now
        return now - self._neglected[1] if first else 0

    def running(self) -> list[Dispatch]:
        """The dispatches of hooks that block which it says it runs."""
        running = [self.in_flight[seq] for seq in self.channel.executing() if seq in self.in_flight]
        return [one for one in running if one.hook is not None and one.hook.lane == BLOCKING]

    def waits(self, dispatch: Dispatch, elapsed_ns: int) -> None:
        """A dispatch that it runs has done nothing but wait so far: it takes less of it than was expected."""
        assert dispatch.hook is not None
        dispatch.hook.times.see_waiting(elapsed_ns)
        share = min(dispatch.share, dispatch.hook.times.share)
        self._taken += share - dispatch.share
        dispatch.share = share

    def take_back(self) -> list[Dispatch]:
        """Everything the worker has not started, oldest first; the worker will never see it."""
        taken = [dispatch for seq in self.channel.revoke() if (dispatch := self.finish(seq)) is not None]
        for dispatch in taken:
            dispatch.seq = 0
        return taken

    def __str__(self) -> str:
        return f"worker {self.slot} (process {self.pid})"
