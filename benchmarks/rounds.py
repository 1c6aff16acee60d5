"""Interleaved rounds: each case is measured once per round, so that a disturbance affects all cases alike."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, and for how many seconds each time, a case is measured."""

    rounds: int = 5
    seconds: float = 1.0


QUICK: Final = Pace(rounds=1, seconds=0.2)


class Reading(NamedTuple):
    """One case in one round. CPU is in microseconds per dispatch."""

    rate: float
    """Dispatches per second."""
    p50_us: float
    broker_us: float
    """CPU of the broker, or of another server's first process."""
    workers_us: float
    load_us: float
    """CPU of the load generator."""
    p99_us: float = 0.0

    @property
    def cpu_us(self) -> float:
        """CPU of all the server's processes."""
        return self.broker_us + self.workers_us


class PlotPoint(NamedTuple):
    """Medians of one case over all rounds; None where a benchmark has no such figure."""

    label: str
    rate: float | None = None
    p50_us: float | None = None
    broker_us: float | None = None
    workers_us: float | None = None
    load_us: float | None = None
    p99_us: float | None = None


class Measurable(Protocol[R_co]):
    """Something that can be measured again and again, under a unique name."""

    @property
    def name(self) -> str: ...

    def warm_up(self) -> None: ...

    def measure(self) -> R_co: ...


def in_rounds(cases: Sequence[Measurable[R]], rounds: int) -> dict[str, list[R]]:
    """Warm up and measure all cases, every other round in reverse order; return the rounds of each case by name."""
    for case in cases:
        case.warm_up()
    found: dict[str, list[R]] = {case.name: [] for case in cases}
    for number in range(rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            found[case.name].append(case.measure())
    return found


class Readings:
    """All rounds of all cases. Figures are named after the attributes of `Reading`."""

    def __init__(self, readings: dict[str, list[Reading]]) -> None:
        self._readings = readings

    def each(self, name: str, figure: str) -> list[float]:
        """Return one figure of a case, round by round."""
        return [getattr(reading, figure) for reading in self._readings[name]]

    def median(self, name: str, figure: str) -> float:
        """Return the median of one figure of a case."""
        return statistics.median(self.each(name, figure))

    def ratio(self, name: str, to: str, figure: str) -> float:
        """Return the ratio of two cases' medians."""
        return self.median(name, figure) / self.median(to, figure)

    def point(self, name: str) -> PlotPoint:
        """Return the medians of a case."""
        return PlotPoint(name, *(statistics.median(column) for column in zip(*self._readings[name], strict=True)))


def interleave(cases: Sequence[Measurable[Reading]], rounds: int) -> Readings:
    """Measure cases of the usual kind."""
    return Readings(in_rounds(cases, rounds))


def ratios(over: Sequence[float], under: Sequence[float], factor: float = 1.0) -> tuple[float, ...]:
    """Divide two figures round by round; infinite where a round was too short to measure the second one."""
    return tuple(a / b * factor if b else math.inf for a, b in zip(over, under, strict=True))
