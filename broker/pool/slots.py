"""What the workers of each slot did, including those that have ended."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from tykpy.broker.pool.worker import Worker
from tykpy.telemetry.snapshot import SlotState


class RestartReason(StrEnum):
    """Why a worker was replaced."""

    CRASH = "crash"
    HANG = "hang"
    """It ran past a deadline, or started nothing."""
    OOM = "oom"
    """The kernel killed it for lack of memory."""
    RECYCLE = "recycle"
    RELOAD = "reload"
    """A reload, or new workers to load bundles that are new or that no worker had any more."""


MOST: Final = 2**53
"""Most records that are counted, because a worker may write any number."""
FAILURES: Final = (RestartReason.CRASH, RestartReason.HANG, RestartReason.OOM)


class SlotTotals:
    """Counters by slot. Slots that were scaled away keep theirs."""

    def __init__(self) -> None:
        self._restarts: defaultdict[int, Counter[RestartReason]] = defaultdict(Counter)
        self._handled: Counter[int] = Counter()
        self._busy_ns: Counter[int] = Counter()
        self._log_lost = 0

    def note_restart(self, slot: int, reason: RestartReason) -> None:
        """Count that the worker of a slot was replaced."""
        self._restarts[slot][reason] += 1

    def note_end(self, worker: Worker, now_ns: int) -> None:
        """Keep the counts of a worker that has ended, before its channel is closed."""
        self._log_lost += worker.channel.log_lost()
        self._handled[worker.slot] += worker.handled
        self._busy_ns[worker.slot] += worker.busy_ns(now_ns)

    def restarts(self, *reasons: RestartReason) -> int:
        """Return how many workers were replaced for these reasons."""
        return sum(counts[reason] for counts in self._restarts.values() for reason in reasons)

    def log_lost(self, workers: Iterable[Worker]) -> int:
        """Return how many records of their logs all workers have lost, by their own account."""
        return min(self._log_lost + sum(worker.channel.log_lost() for worker in workers), MOST)

    def describe(self, workers: Iterable[Worker], now_ns: int) -> list[SlotState]:
        """Return the counters of all slots, including those of `workers`, which live."""
        handled, busy_ns = self._handled.copy(), self._busy_ns.copy()
        for worker in workers:
            handled[worker.slot] += worker.handled
            busy_ns[worker.slot] += worker.busy_ns(now_ns)
        slots = sorted({*handled, *self._restarts})
        return [
            SlotState(
                slot, handled[slot], busy_ns[slot], {str(one): self._restarts[slot][one] for one in RestartReason}
            )
            for slot in slots
        ]
