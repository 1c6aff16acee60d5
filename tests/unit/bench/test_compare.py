"""What changed since an earlier run, and what is only noise."""

import re

from tests.unit.bench.samples import MS, report, result, sample
from tykpy.bench.compare import Trend, compare, verdict_of
from tykpy.bench.results import METRIC, Figure
from tykpy.bench.tables import COMPARED, compared_rows, then_text

STEADY = Figure(1000, 990, 1010, 3)


def test_a_change_beyond_the_spread_is_one_in_the_direction_that_counts() -> None:
    more, less = Figure(1100, 1090, 1110, 3), Figure(900, 890, 910, 3)
    assert verdict_of(METRIC["rate"], STEADY, more) is Trend.BETTER
    assert verdict_of(METRIC["rate"], STEADY, less) is Trend.WORSE
    assert verdict_of(METRIC["p99_us"], STEADY, more) is Trend.WORSE
    assert verdict_of(METRIC["p99_us"], STEADY, less) is Trend.BETTER


def test_a_change_within_the_spread_of_either_run_is_noise() -> None:
    wide = Figure(1100, 950, 1200, 3)
    assert verdict_of(METRIC["rate"], STEADY, wide) is Trend.NOISE
    assert verdict_of(METRIC["rate"], wide, STEADY) is Trend.NOISE
    assert verdict_of(METRIC["rate"], STEADY, Figure(1015, 1010, 1020, 3)) is Trend.NOISE


def test_one_repetition_tells_nothing() -> None:
    assert verdict_of(METRIC["rate"], STEADY, Figure(5000, 5000, 5000, 1)) is Trend.UNKNOWN


def test_cases_are_matched_and_the_rest_is_said() -> None:
    then = report(result(sample(1000), sample(1010)), result(workers=1), python="3.12")
    now = report(result(sample(1500), sample(1510)), result(workers=4), result(workers=8))
    comparison = compare(then, now)
    assert {difference.case.workers for difference in comparison.differences} == {2}
    assert comparison.remarks == [
        "python: 3.12 then, 3.11 now",
        "2 cases of now were not measured then",
        "1 case of then was not measured now",
    ]
    rate = comparison.by_case()[now.results[0].case]["rate"]
    assert rate.verdict is Trend.BETTER
    assert round(rate.change, 3) == 0.498
    assert then_text(rate) == "was 1,005/s, spread 1%"


def test_each_case_is_a_row() -> None:
    then = report(result(sample(1000), sample(1000), sample(1000)))
    now = report(result(*[sample(2000, [4 * MS], broker=None, workers=None)] * 3))
    ((title, rate, p50, _, cpu, memory),) = compared_rows(compare(then, now))
    assert len(COMPARED) == 6
    assert title == "header, 2 workers, 64 streams"
    assert rate == "2,000/s +100.0% better"
    assert re.fullmatch(r"4 ms \+99\.\d% worse", p50), "buckets are 0.8 % wide"
    assert cpu == "-"
    assert memory == "63 MiB +0.0% noise"


def test_a_disturbed_run_of_then_is_said() -> None:
    (remark,) = compare(report(result(sample(machine=7.0))), report(result())).remarks
    assert remark.startswith("then, other processes used up to 5.8 of 8 CPUs")
