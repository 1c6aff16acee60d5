"""The histogram of `tykpy bench` against sorted lists of the same values."""

import json
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from tykpy.bench.results import RELATIVE_ERROR, Histogram, bounds_of, bucket_of

values = st.lists(st.integers(0, 2**45), max_size=200)
some_values = st.lists(st.integers(0, 2**45) | st.integers(0, 1000), min_size=1, max_size=200)
percents = st.floats(0, 100)


@given(st.integers(0, 2**62))
def test_a_value_lies_within_its_bucket_and_the_bucket_is_narrow(value: int) -> None:
    low, high = bounds_of(bucket_of(value))
    assert low <= value <= high
    assert high - low <= 2 * RELATIVE_ERROR * low


@given(st.integers(0, 7000))
def test_buckets_follow_each_other_without_a_gap(bucket: int) -> None:
    assert bounds_of(bucket)[1] + 1 == bounds_of(bucket + 1)[0]
    assert bucket_of(bounds_of(bucket)[0]) == bucket


@given(some_values, percents)
def test_a_percentile_is_the_exact_one_within_the_error(recorded: list[int], percent: float) -> None:
    exact = sorted(recorded)[max(1, ceil(len(recorded) * percent / 100)) - 1]
    assert abs(Histogram(recorded).percentile(percent) - exact) <= max(1, exact * RELATIVE_ERROR * 2)


@given(some_values)
def test_percentiles_rise_within_the_recorded_range(recorded: list[int]) -> None:
    histogram = Histogram(recorded)
    found = [histogram.percentile(percent) for percent in (0, 10, 50, 90, 99, 100)]
    assert found == sorted(found)
    assert min(recorded) <= found[0]
    assert found[-1] <= max(recorded)
    assert (histogram.lowest, histogram.highest, histogram.total) == (min(recorded), max(recorded), len(recorded))


@given(values, values, values)
def test_merging_is_recording_together_in_any_order(one: list[int], two: list[int], three: list[int]) -> None:
    merged = Histogram(three)
    merged.merge(Histogram(one))
    merged.merge(Histogram(two))
    assert merged == Histogram(one + two + three)


@given(values)
def test_it_survives_json(recorded: list[int]) -> None:
    histogram = Histogram(recorded)
    again = Histogram.from_dict(json.loads(json.dumps(histogram.as_dict())))
    assert again == histogram
    assert again.total == len(recorded)


def test_nothing_recorded_is_no_error() -> None:
    assert Histogram().percentile(99) == 0
