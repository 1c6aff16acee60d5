"""A log-linear histogram of durations in nanoseconds, after the idea of HdrHistogram: mergeable, 0.8 % wide buckets.

```
value        bucket                 width
0..255       value                  1
256..511     256 + (value-256)/2    2
512..1023    384 + (value-512)/4    4     ... 128 buckets for each further power of two
```
"""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any, Final, Self

_BITS: Final = 7
"""Each power of two is divided by 2**7: a bucket is at most 1/128 of its values wide."""
RELATIVE_ERROR: Final = 2.0 ** -(_BITS + 1)
"""What a percentile may be off: half a bucket."""


def bucket_of(value: int) -> int:
    """The bucket of a value; negative ones count as 0."""
    shift = value.bit_length() - _BITS - 1
    if shift <= 0 or value < 0:
        return max(0, value)
    return (shift << _BITS) + (value >> shift)


def bounds_of(bucket: int) -> tuple[int, int]:
    """The lowest and the highest value of a bucket."""
    shift = max(0, (bucket >> _BITS) - 1)
    low = (bucket - (shift << _BITS)) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """Counts by bucket. `total` values, from `lowest` to `highest`."""

    __slots__ = ("_counts", "highest", "lowest", "total")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._counts: dict[int, int] = {}
        self.total = 0
        self.lowest = 0
        self.highest = 0
        self.record(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def record(self, values: Iterable[int]) -> None:
        """Count more values."""
        counts = self._counts
        more = list(values)
        for value in more:
            bucket = bucket_of(value)
            counts[bucket] = counts.get(bucket, 0) + 1
        if more:
            self._widen(min(more), max(more), len(more))

    def merge(self, other: "Histogram") -> None:
        """Count all that another one has counted."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        if other.total:
            self._widen(other.lowest, other.highest, other.total)

    def _widen(self, low: int, high: int, count: int) -> None:
        self.lowest = min(low, self.lowest) if self.total else low
        self.highest = max(high, self.highest) if self.total else high
        self.total += count

    def percentile(self, percent: float) -> int:
        """The value that `percent` of all values do not exceed, in ns; 0 where nothing was counted."""
        wanted = max(1, ceil(self.total * percent / 100))
        seen = 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            if seen >= wanted:
                return self._within(bucket)
        return 0

    def _within(self, bucket: int) -> int:
        low, high = bounds_of(bucket)
        return min(max((low + high) // 2, self.lowest), self.highest)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and msgpack: only what was counted."""
        return {"lowest": self.lowest, "highest": self.highest, "counts": sorted(map(list, self._counts.items()))}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The same histogram again; raises KeyError, TypeError or ValueError where it is none."""
        histogram = cls()
        histogram._counts = {int(bucket): int(count) for bucket, count in stored["counts"]}
        histogram.total = sum(histogram._counts.values())
        histogram.lowest, histogram.highest = int(stored["lowest"]), int(stored["highest"])
        return histogram
