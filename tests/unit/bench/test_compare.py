"""What changed since an earlier run, and what is only noise."""

from tests.unit.bench.samples import MS, report, result, sample
from tykpy.bench.results import Figure
from tykpy.bench.tables import COMPARED, Difference, Trend, compare

STEADY = Figure(1000, 990, 1010, 3)


def trend_of(name: str, before: Figure, after: Figure) -> Trend:
    return Difference(name, before, after).trend


def test_a_change_beyond_the_spread_is_better_or_worse() -> None:
    more, less = Figure(1100, 1090, 1110, 3), Figure(900, 890, 910, 3)
    assert trend_of("rate", STEADY, more) is Trend.BETTER
    assert trend_of("rate", STEADY, less) is Trend.WORSE
    assert trend_of("p99_us", STEADY, more) is Trend.WORSE
    assert trend_of("p99_us", STEADY, less) is Trend.BETTER


def test_a_change_within_the_spread_of_either_run_is_noise() -> None:
    wide = Figure(1100, 950, 1200, 3)
    assert trend_of("rate", STEADY, wide) is Trend.NOISE
    assert trend_of("rate", wide, STEADY) is Trend.NOISE
    assert trend_of("rate", STEADY, Figure(1015, 1010, 1020, 3)) is Trend.NOISE


def test_one_repetition_has_no_trend() -> None:
    assert trend_of("rate", STEADY, Figure(5000, 5000, 5000, 1)) is Trend.UNKNOWN


def test_cases_that_only_one_run_has_are_named() -> None:
    then = report(result(sample(1000), sample(1010)), result(workers=1), python="3.12")
    now = report(result(sample(1500), sample(1510)), result(workers=4), result(workers=8))
    comparison = compare(then, now)
    assert {case.workers for case in comparison.cases} == {2}
    assert comparison.remarks == [
        "python: 3.12 then, 3.11 now",
        "2 cases of now were not measured then",
        "1 case of then was not measured now",
    ]
    rate = comparison.cases[now.results[0].case]["rate"]
    assert rate.trend is Trend.BETTER
    assert round(rate.change, 3) == 0.498
    assert rate.then_text == "was 1,005/s, spread 1%"


def test_each_case_is_a_row() -> None:
    then = report(result(sample(1000), sample(1000), sample(1000)))
    now = report(result(*[sample(2000, [4 * MS], broker=None, workers=None)] * 3))
    ((title, rate, p50, _, cpu, memory),) = compare(then, now).rows()
    assert len(COMPARED) == 5
    assert title == "header, 2 workers, 64 streams"
    assert rate == "2,000/s +100.0% better"
    assert p50 == "4.01 ms +100.0% worse"
    assert cpu == "-"
    assert memory == "63 MiB +0.0% noise"


def test_a_disturbed_earlier_run_is_named() -> None:
    (remark,) = compare(report(result(sample(machine=7.0))), report(result())).remarks
    assert remark.startswith("then, other processes used up to 5.8 of 8 CPUs")
