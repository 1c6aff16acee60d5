"""The capacity formula: dispatches per second from what one costs, the hook, workers, threads and cores.

Every part of the way has its own bound; the lowest counts.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

US_PER_SECOND: Final = 1_000_000


class Bound(StrEnum):
    """Possible limits."""

    BROKER = "broker"
    CALLER = "caller"
    CORES = "cores"
    LOCKS = "interpreter locks"
    THREADS = "threads"


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU of one dispatch with a hook that does next to nothing, in us."""

    broker_us: float
    worker_us: float
    caller_us: float
    """CPU of a load generator or gateway with one busy thread on the same cores; 0 for one on another machine."""

    @property
    def total_us(self) -> float:
        """The sum of all three."""
        return self.broker_us + self.worker_us + self.caller_us


@dataclass(frozen=True, slots=True)
class Calibration:
    """Costs that are measured once, with a hook that does next to nothing."""

    together: Costs
    """With many calls at once, at the highest rate: one wake-up and one system call serve several dispatches."""
    alone: Costs
    """With one call at a time: every dispatch has its own wake-ups."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The time that a hook takes, in us, and what there is to run it."""

    cpu_us: float
    wait_us: float
    """Time in which it uses no CPU and does not hold the interpreter lock."""
    workers: int
    threads: int
    cores: float
    """Cores that other processes leave."""


class Capacity(NamedTuple):
    """Dispatches per second, and what limits them."""

    rate: float
    bound: Bound


def costs_of(calibration: Calibration, workload: Workload) -> Costs:
    """Return the costs that apply: dispatches travel together if they come faster than a single one is passed on."""
    takes_us = workload.cpu_us + workload.wait_us
    return calibration.together if takes_us < calibration.alone.total_us else calibration.alone


def bounds(costs: Costs, workload: Workload) -> dict[Bound, float]:
    """Return the dispatches per second that each part could do if it were the only limit."""
    in_worker = costs.worker_us + workload.cpu_us
    found = {
        Bound.BROKER: US_PER_SECOND / costs.broker_us,
        Bound.CORES: workload.cores * US_PER_SECOND / (costs.total_us + workload.cpu_us),
        Bound.LOCKS: workload.workers * US_PER_SECOND / in_worker,
        Bound.THREADS: workload.workers * workload.threads * US_PER_SECOND / (in_worker + workload.wait_us),
    }
    if costs.caller_us:
        found[Bound.CALLER] = US_PER_SECOND / costs.caller_us
    return found


def capacity(calibration: Calibration, workload: Workload) -> Capacity:
    """Return the lowest bound."""
    found = bounds(costs_of(calibration, workload), workload)
    lowest = min(found, key=found.__getitem__)
    return Capacity(found[lowest], lowest)
