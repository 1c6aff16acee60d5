"""A bar: what is promised as a ratio within one run, and what came of it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise."""

    name: str
    what: str
    limit: float
    at_least: bool
    """The ratio must not be below the limit; else not above it."""
    unit: str = "x"

    @property
    def text(self) -> str:
        """The promise in words."""
        return f"{'at least' if self.at_least else 'at most'} {number_text(self.limit, self.unit)}"


@dataclass(frozen=True, slots=True)
class Point:
    """One thing that was measured for a bar; medians over the rounds, None where there is no such figure."""

    label: str
    rate: float | None = None
    """Dispatches per second."""
    p50_us: float | None = None
    broker_us: float | None = None
    """CPU per dispatch, as the next two."""
    workers_us: float | None = None
    load_us: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one bar came to."""

    bar: Bar
    values: tuple[float, ...]
    """The ratio of each round."""
    detail: str
    """The absolute figures, and what limits."""
    points: tuple[Point, ...] = ()

    @property
    def median(self) -> float:
        """What counts."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.median >= self.bar.limit if self.bar.at_least else self.median <= self.bar.limit

    @property
    def measured(self) -> str:
        """The median, and what the rounds differ."""
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
                {name: getattr(point, name) for name in Point.__slots__ if getattr(point, name) is not None}
                for point in self.points
            ],
        }


def number_text(value: float, unit: str) -> str:
    """A ratio as `7.57x`, anything else with its unit behind it."""
    digits = 3 if value < 1 else 2
    return f"{value:.{digits}f}x" if unit == "x" else f"{value:.{digits - 1}f} {unit}"


def ratios(over: Sequence[float], under: Sequence[float], factor: float = 1.0) -> tuple[float, ...]:
    """Round by round."""
    return tuple(a / b * factor for a, b in zip(over, under, strict=True))
