"""The histogram of `tykpy bench` against sorted lists of the same values."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bench.samples import histogram_of
from tykpy.bench.results import RELATIVE_ERROR

values = st.lists(st.integers(0, 2**45), max_size=200)
some_values = st.lists(st.integers(0, 2**62) | st.integers(0, 1000), min_size=1, max_size=200)
percents = st.floats(0, 100)


@given(some_values, percents)
def test_a_percentile_is_the_exact_one_within_the_error(recorded: list[int], percent: float) -> None:
    exact = sorted(recorded)[max(1, ceil(len(recorded) * percent / 100)) - 1]
    assert abs(histogram_of(recorded).percentile(percent) - exact) <= exact * RELATIVE_ERROR


@given(some_values)
def test_percentiles_rise(recorded: list[int]) -> None:
    histogram = histogram_of(recorded)
    found = [histogram.percentile(percent) for percent in (0, 10, 50, 90, 99, 100)]
    assert found == sorted(found)
    assert histogram.total() == len(recorded)


@given(st.integers(1, 60))
def test_a_histogram_stays_small(bits: int) -> None:
    assert len(histogram_of(range(2**bits, 2 ** (bits + 1), max(1, 2**bits // 1000)))) <= 128


@given(values, values, values)
def test_merging_is_recording_together_in_any_order(one: list[int], two: list[int], three: list[int]) -> None:
    merged = histogram_of(three)
    merged.update(histogram_of(one))
    merged.update(histogram_of(two))
    assert merged == histogram_of(one + two + three)


def test_nothing_recorded_is_no_error() -> None:
    assert histogram_of([]).percentile(99) == 0
