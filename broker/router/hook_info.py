"""What the router knows about a hook: its lane, limits and times, and how many of its calls one worker runs at once.

A call that waits for a service leaves the interpreter to others: a worker can run `(computing + waiting) / computing`
such calls at a time, and each takes one such share of its worker. A hook that computes takes all of it, whatever the
number of threads: more threads would only contend for the interpreter's lock.
"""

from typing import Final

from tykpy.broker.router.hook_stats import HookStats
from tykpy.ipc.ring.layout import FLAG_MEASURE, FLAG_SHARES

BLOCKING: Final = 0
"""Lane of hooks that take a thread of their worker while they run."""
ASYNC: Final = 1
"""Lane of `async def` hooks: a worker has room for many of them while its threads are all busy."""
LANES: Final = 2
"""Lanes of a group of workers: lane `lane` of group `n` has the number `LANES * n + lane`. Group 0 is all workers."""

FIRST_GUESS_NS: Final = 500_000
"""Expected running time of a hook that has not run yet."""
LEARNING_SHIFT: Final = 3
"""A new measurement counts 1/8 in the expected running time."""
FORGETTING_SHIFT: Final = 6
"""A new measurement counts 1/64 in the shortest running time, or in full if it is shorter."""
SHORT_NS: Final = 50_000
"""A hook that returns sooner waits for nothing: one round trip to a Redis next door takes longer."""
SELDOM_LONG_NS: Final = 1_000_000
"""A hook that is expected to run longer than this is not short, however quick it sometimes is."""
MEASURED_NS: Final = 200_000
"""From this expected running time on the worker measures how much of it a hook waits, for some 5 us a call; it stops
below SHORT_NS. A hook that is slow now and then stays between the two."""
OUTLIER_MEMORY: Final = 16
"""A call that waits longer than calls are expected to run counts only if one of this many measured calls before it did
too: a thread that the machine itself delayed for a moment says nothing about its hook, and sharing a worker costs more
than 15 us. Without this rule, one call of 722 us among calls of 54 us started a second thread on a busy machine."""
FEW: Final = 4
"""The first measured calls of a hook, which prove nothing: the machine delays those most."""
WHOLE: Final = 1 << 20
"""Share of a call that takes its whole worker."""
MOST_AT_ONCE: Final = 512
"""Most calls of one hook that a worker could run at the same time, given enough threads. The shares of that many calls
add up to at least WHOLE, because each is rounded up."""


class HookTimes:
    """The times of one hook, in ns."""

    __slots__ = ("expected_ns", "flags", "is_short", "measured", "outlier", "share", "shortest_ns", "waiting_ns")

    def __init__(self) -> None:
        self.expected_ns = FIRST_GUESS_NS
        """Expected running time of a call."""
        self.shortest_ns = FIRST_GUESS_NS
        self.is_short = False
        """Whether it computes a little and waits for nothing. Judged by its shortest times: if more workers run than
        there are CPUs, most times include those of other processes."""
        self.waiting_ns = 0
        """How much of a call's running time is waiting."""
        self.measured = 0
        """Calls whose waiting was measured, up to FEW; a call that waits for long before it returns counts as FEW."""
        self.outlier = 0
        """For how many more measured calls another outlier would count."""
        self.share = WHOLE
        """How much of a worker a call takes."""
        self.flags = FLAG_MEASURE
        """Flags of its requests, which tell the worker how to run it."""

    def learn(self, handler_ns: int, waited_ns: int | None = None) -> None:
        """Learn from a call's running time and the fraction of it that the hook waited (None: not measured)."""
        expected_ns = self.expected_ns
        self.expected_ns += (handler_ns - self.expected_ns) >> LEARNING_SHIFT
        shift = FORGETTING_SHIFT if handler_ns > self.shortest_ns else 0
        self.shortest_ns += (handler_ns - self.shortest_ns) >> shift
        self.is_short = self.shortest_ns < SHORT_NS and self.expected_ns < SELDOM_LONG_NS
        if self.flags or self.expected_ns >= MEASURED_NS:
            if waited_ns is None or self._is_outlier(waited_ns, expected_ns):
                # A call that was not measured was too short until now, or others were too busy to tell: assume that
                # it waited as calls did before.
                waited_ns = self.waiting_ns * handler_ns // max(expected_ns, 1)
            self._learn_waiting(waited_ns)

    def see_waiting(self, elapsed_ns: int) -> None:
        """Learn from a call that has not returned and has already waited for `elapsed_ns`."""
        self.expected_ns += max(elapsed_ns - self.expected_ns, 0) >> LEARNING_SHIFT
        self.is_short = False
        self.measured = FEW
        self._learn_waiting(max(elapsed_ns, self.waiting_ns))

    def _is_outlier(self, waited_ns: int, expected_ns: int) -> bool:
        """Count a measured call; return whether it waited although none of the last ones did."""
        self.measured = min(self.measured + 1, FEW)
        is_first = not self.outlier
        if waited_ns > expected_ns:
            self.outlier = OUTLIER_MEMORY
            return is_first
        if not is_first:
            self.outlier -= 1
        return False

    def _learn_waiting(self, waited_ns: int) -> None:
        waiting_ns = self.waiting_ns + ((waited_ns - self.waiting_ns) >> LEARNING_SHIFT)
        if self.expected_ns < SHORT_NS:
            self.waiting_ns, self.share, self.flags = 0, WHOLE, 0
            return
        if self.measured < FEW:
            return
        self.waiting_ns = min(waiting_ns, self.expected_ns - 1)
        at_once = min(round(self.expected_ns / (self.expected_ns - self.waiting_ns)), MOST_AT_ONCE)
        self.share = -(-WHOLE // at_once)
        self.flags = FLAG_MEASURE | FLAG_SHARES if at_once > 1 else FLAG_MEASURE


class HookInfo:
    """Where calls of one hook run and wait, and for how long."""

    __slots__ = ("apis", "group", "idempotent", "lane", "queue_lane", "stats", "timeout_ns", "times")

    def __init__(
        self, stats: HookStats, *, is_async: bool = False, timeout: float | None = None, idempotent: bool = False
    ) -> None:
        """`stats`: what counts its dispatches. `timeout`: the hook's own limit in seconds; None: the broker's."""
        self.apis: set[str] = set()
        """Ids of the APIs that have called it."""
        self.lane = ASYNC if is_async else BLOCKING
        self.group = 0
        """The group of workers that have loaded it; 0, as for nearly every hook: any worker may run it."""
        self.queue_lane = self.lane
        """The lane of the queue in which its calls wait."""
        self.timeout_ns = int(timeout * 1e9) if timeout else 0
        self.idempotent = idempotent
        self.stats = stats
        self.times = HookTimes()

    def restrict(self, group: int) -> None:
        """Run the hook only on the workers of this group."""
        self.group = group
        self.queue_lane = LANES * group + self.lane
