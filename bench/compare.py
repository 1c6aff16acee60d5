"""What changed since an earlier report. A change that is not larger than the repetitions' own spread is noise."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from tykpy.bench.limits import disturbance
from tykpy.bench.results import METRICS, BenchReport, Case, CaseResult, Figure, Metric

SHOWN: Final = ("rate", "p50_us", "p99_us", "total_us", "memory_mib")


class Trend(StrEnum):
    """What a change is."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"
    UNKNOWN = "one repetition"
    """Without a second one nobody knows the spread."""


class Difference(NamedTuple):
    """One figure of one case, then and now."""

    case: Case
    metric: Metric
    before: Figure
    after: Figure
    verdict: Trend

    @property
    def change(self) -> float:
        """As a share of what was."""
        return self.after.median / self.before.median - 1 if self.before.median else 0.0

    @property
    def spread(self) -> float:
        """What a change must exceed to be one."""
        return max(self.before.spread, self.after.spread)


class Comparison(NamedTuple):
    """All differences, and what makes the two reports less comparable."""

    differences: list[Difference]
    remarks: list[str]

    def by_case(self) -> dict[Case, dict[str, Difference]]:
        """The differences of each case by the name of the metric."""
        cases: dict[Case, dict[str, Difference]] = {}
        for difference in self.differences:
            cases.setdefault(difference.case, {})[difference.metric.name] = difference
        return cases


def compare(before: BenchReport, after: BenchReport) -> Comparison:
    """Compare the cases that both have."""
    known = {result.case: result for result in before.results}
    differences = [
        difference
        for result in after.results
        if result.case in known
        for difference in _differences(known[result.case], result)
    ]
    return Comparison(differences, list(_remarks(before, after)))


def verdict_of(metric: Metric, before: Figure, after: Figure) -> Trend:
    """Whether a figure's change is more than noise, and in which direction."""
    if min(before.count, after.count) < 2:
        return Trend.UNKNOWN
    change = after.median / before.median - 1 if before.median else 0.0
    if abs(change) <= max(before.spread, after.spread):
        return Trend.NOISE
    return Trend.BETTER if (change > 0) == metric.more_is_better else Trend.WORSE


def _differences(before: CaseResult, after: CaseResult) -> Iterator[Difference]:
    for metric in METRICS:
        if metric.name in SHOWN:
            then, now = before.figure(metric.name), after.figure(metric.name)
            if then is not None and now is not None:
                yield Difference(after.case, metric, then, now, verdict_of(metric, then, now))


def _remarks(before: BenchReport, after: BenchReport) -> Iterator[str]:
    for key in ("CPU", "CPUs", "kernel", "python", "tykpy", "protobuf"):
        then, now = before.machine.get(key), after.machine.get(key)
        if then != now:
            yield f"{key}: {then} then, {now} now"
    if disturbed := disturbance(before.results):
        yield f"then, {disturbed}"
    then_cases, now_cases = ({result.case for result in report.results} for report in (before, after))
    if new := len(now_cases - then_cases):
        yield f"{_cases(new)} of now {_were(new)} not measured then"
    if gone := len(then_cases - now_cases):
        yield f"{_cases(gone)} of then {_were(gone)} not measured now"


def _cases(count: int) -> str:
    return f"{count} case{'s' * (count != 1)}"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
