"""A bar: a promise as a ratio within one run, and whether it is kept."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.reports import Findings, Table
from benchmarks.rounds import Pace, PlotPoint

COLUMNS: Final = ("bar", "", "promised", "measured (rounds)", "met", "figures")


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise."""

    name: str
    what: str
    limit: float
    at_least: bool
    """The ratio must not be below the limit; otherwise it must not be above it."""
    unit: str = "x"

    @property
    def text(self) -> str:
        """The promise in words."""
        return f"{'at least' if self.at_least else 'at most'} {number_text(self.limit, self.unit)}"


@dataclass(frozen=True, slots=True)
class BarOutcome:
    """What was measured for one bar."""

    bar: Bar
    values: tuple[float, ...]
    """The ratio of each round."""
    detail: str
    """The absolute figures, and the limit."""
    points: tuple[PlotPoint, ...] = ()

    @property
    def median(self) -> float:
        """The ratio that counts."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """The promise is kept."""
        return self.median >= self.bar.limit if self.bar.at_least else self.median <= self.bar.limit

    @property
    def measured(self) -> str:
        """The median, and the range of the rounds."""
        low, high = (number_text(value, self.bar.unit) for value in (min(self.values), max(self.values)))
        return f"{number_text(self.median, self.bar.unit)} ({low} to {high})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.bar.name,
            "what": self.bar.what,
            "bar": self.bar.text,
            "limit": self.bar.limit,
            "at_least": self.bar.at_least,
            "unit": self.bar.unit,
            "median": self.median,
            "values": list(self.values),
            "measured": self.measured,
            "met": self.met,
            "detail": self.detail,
            "points": [
                {name: value for name, value in point._asdict().items() if value is not None} for point in self.points
            ],
        }


def number_text(value: float, unit: str) -> str:
    """Return a ratio as `7.57x`, and anything else followed by its unit."""
    digits = 3 if value < 1 else 2
    return f"{value:.{digits}f}x" if unit == "x" else f"{value:.{digits - 1}f} {unit}"


def findings(pace: Pace, outcomes: Sequence[BarOutcome], failures: Mapping[str, str]) -> Findings:
    """Return the outcomes as a table; `failures` are reasons by the name of a bar."""
    rows = [
        (one.bar.name, one.bar.what, one.bar.text, one.measured, "yes" if one.met else "**no**", one.detail)
        for one in outcomes
    ]
    note = f"Medians of {pace.rounds} interleaved rounds of about {pace.seconds:g} s; lowest to highest."
    figures = {"rounds": pace.rounds, "seconds": pace.seconds, "bars": [one.as_dict() for one in outcomes]}
    return Findings([Table(COLUMNS, rows)], [note], figures, failures)
