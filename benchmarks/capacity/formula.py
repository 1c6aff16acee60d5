"""The capacity formula: dispatches per second from what one costs, the hook, workers, threads and cores.

Every part of the way has its own bound; the lowest counts.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

US_PER_SECOND: Final = 1_000_000


class Bound(StrEnum):
    """What can be the limit."""

    BROKER = "broker"
    CALLER = "caller"
    CORES = "cores"
    LOCKS = "interpreter locks"
    THREADS = "threads"


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU us of one dispatch with a hook that does next to nothing."""

    broker_us: float
    worker_us: float
    caller_us: float
    """Of a load generator or gateway with one busy thread on the same cores; 0 for one on another machine."""

    @property
    def total_us(self) -> float:
        """Of all three."""
        return self.broker_us + self.worker_us + self.caller_us


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is measured once, with hooks that do next to nothing."""

    together: Costs
    """With many calls at once, at the highest rate: one wake-up and one system call serve several dispatches."""
    alone: Costs
    """With one call at a time: every dispatch has its own wake-ups."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the hook takes in us, and what there is to run it."""

    cpu_us: float
    wait_us: float
    """While it uses no CPU and does not hold the interpreter lock."""
    workers: int
    threads: int
    cores: float
    """That other processes leave."""


class Capacity(NamedTuple):
    """Dispatches per second, and what keeps them from being more."""

    rate: float
    bound: Bound


def costs_of(calibration: Calibration, setting: Setting) -> Costs:
    """What applies: dispatches travel together only while they come faster than one by itself is passed on."""
    takes_us = setting.cpu_us + setting.wait_us
    return calibration.together if takes_us < calibration.alone.total_us else calibration.alone


def bounds(costs: Costs, setting: Setting) -> dict[Bound, float]:
    """Dispatches per second that each part could do if it were alone."""
    in_worker = costs.worker_us + setting.cpu_us
    found = {
        Bound.BROKER: US_PER_SECOND / costs.broker_us,
        Bound.CORES: setting.cores * US_PER_SECOND / (costs.total_us + setting.cpu_us),
        Bound.LOCKS: setting.workers * US_PER_SECOND / in_worker,
        Bound.THREADS: setting.workers * setting.threads * US_PER_SECOND / (in_worker + setting.wait_us),
    }
    if costs.caller_us:
        found[Bound.CALLER] = US_PER_SECOND / costs.caller_us
    return found


def capacity(calibration: Calibration, setting: Setting) -> Capacity:
    """The lowest bound."""
    found = bounds(costs_of(calibration, setting), setting)
    lowest = min(found, key=found.__getitem__)
    return Capacity(found[lowest], lowest)
