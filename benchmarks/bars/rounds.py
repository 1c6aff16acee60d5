"""Interleaved rounds: every case gets its turn in each, so that a disturbance hits all of them alike."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from benchmarks.bars.bar import Point


@dataclass(frozen=True, slots=True)
class Pace:
    """How long it is measured."""

    rounds: int = 5
    seconds: float = 1.0
    """Of one measurement."""


QUICK: Final = Pace(rounds=1, seconds=0.2)


class Reading(NamedTuple):
    """One case in one round; CPU in microseconds per dispatch."""

    rate: float
    p50_us: float
    broker_us: float
    workers_us: float
    load_us: float

    @property
    def cpu_us(self) -> float:
        """Of broker and workers."""
        return self.broker_us + self.workers_us


class Case(Protocol):
    """Something that can be measured again and again."""

    @property
    def name(self) -> str:
        """Told apart by it."""

    def warm_up(self) -> None:
        """Before the first round."""

    def measure(self) -> Reading:
        """One round."""


class Readings:
    """All rounds of all cases."""

    def __init__(self) -> None:
        self._readings: dict[str, list[Reading]] = {}

    def add(self, name: str, reading: Reading) -> None:
        """Keep what a round brought."""
        self._readings.setdefault(name, []).append(reading)

    def each(self, name: str, figure: Callable[[Reading], float]) -> list[float]:
        """One figure of a case, round by round."""
        return [figure(reading) for reading in self._readings[name]]

    def median(self, name: str, figure: Callable[[Reading], float]) -> float:
        """One figure of a case over all rounds."""
        return statistics.median(self.each(name, figure))

    def point(self, name: str) -> Point:
        """The medians of a case."""
        readings = self._readings[name]
        return Point(name, *(statistics.median(column) for column in zip(*readings, strict=True)))


def interleave(cases: Sequence[Case], rounds: int) -> Readings:
    """Warm up and measure; every other round in the opposite order."""
    readings = Readings()
    for case in cases:
        case.warm_up()
    for number in range(rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            readings.add(case.name, case.measure())
    return readings


def rate(reading: Reading) -> float:
    """Dispatches per second."""
    return reading.rate


def p50_us(reading: Reading) -> float:
    """Median latency."""
    return reading.p50_us


def cpu_us(reading: Reading) -> float:
    """Of broker and workers, per dispatch."""
    return reading.cpu_us


def broker_us(reading: Reading) -> float:
    """Of the broker, per dispatch."""
    return reading.broker_us
