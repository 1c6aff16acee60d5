"""The buckets of every histogram of durations."""

from typing import Final

_MICROSECOND: Final = 1_000
_MILLISECOND: Final = 1_000_000
_SECOND: Final = 1_000_000_000

BOUNDS_NS: Final = (
    10 * _MICROSECOND,
    25 * _MICROSECOND,
    50 * _MICROSECOND,
    100 * _MICROSECOND,
    250 * _MICROSECOND,
    500 * _MICROSECOND,
    1 * _MILLISECOND,
    int(2.5 * _MILLISECOND),
    5 * _MILLISECOND,
    10 * _MILLISECOND,
    25 * _MILLISECOND,
    50 * _MILLISECOND,
    100 * _MILLISECOND,
    250 * _MILLISECOND,
    500 * _MILLISECOND,
    1 * _SECOND,
    int(2.5 * _SECOND),
    5 * _SECOND,
    10 * _SECOND,
    11 * _SECOND,
    30 * _SECOND,
)
"""Upper bounds, inclusive, of the buckets of every histogram; one more bucket has no bound. The first
three are for hooks that edit a header, which take 10 to 50 us. Calls that end at the default time limit of 10 s do so a
few milliseconds late: without the bound of 11 s their percentiles, which are interpolated, would be 20 to 30 s."""
BUCKETS: Final = len(BOUNDS_NS) + 1
