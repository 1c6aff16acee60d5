"""The figures as rows of text, for the terminal and the HTML report, and what has changed since an earlier report."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from tykpy.bench.limits import Bottleneck, disturbance, failures_text, limit_of
from tykpy.bench.results import BenchReport, Case, CaseResult, Figure

COMPARED: Final = {
    "rate": "dispatches/s", "p50_us": "p50", "p99_us": "p99", "total_us": "CPU per dispatch", "memory_mib": "memory",
}  # fmt: skip
"""Titles of the metrics that are compared."""
COLUMNS: Final = (
    "case", "dispatches/s", "spread", "p50", "p99", "p99.9", "CPU broker", "CPU workers", "of it ring", "CPU load",
    "memory", "limit",
)  # fmt: skip
LEFT_OUT_FIRST: Final = ("of it ring", "CPU load", "p99.9", "spread", "memory", "CPU workers", "CPU broker", "p50")
"""Columns that a narrow terminal leaves out, in this order; files have all of them."""
NOT_MEASURED: Final = "-"
_BORDER: Final = 3
"""Columns of the terminal between two cells."""


class Trend(StrEnum):
    """Whether a change is more than noise: more than the spread of the repetitions, and in which direction."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"
    UNKNOWN = "one repetition"
    """The spread is unknown without a second repetition."""


class Difference(NamedTuple):
    """One figure of one case, then and now."""

    metric: str
    before: Figure
    after: Figure

    @property
    def change(self) -> float:
        """The change, as a share of the figure before."""
        return self.after.median / self.before.median - 1 if self.before.median else 0.0

    @property
    def spread(self) -> float:
        """What a change must exceed to be more than noise."""
        return max(self.before.spread, self.after.spread)

    @property
    def trend(self) -> Trend:
        """Whether the change is more than noise."""
        if min(self.before.count, self.after.count) < 2:
            return Trend.UNKNOWN
        if abs(self.change) <= self.spread:
            return Trend.NOISE
        return Trend.BETTER if (self.change > 0) == (self.metric == "rate") else Trend.WORSE

    @property
    def now_text(self) -> str:
        """What the figure is now, how it changed, and whether that is more than noise."""
        return f"{figure_text(self.metric, self.after)} {self.change:+.1%} {self.trend}"

    @property
    def then_text(self) -> str:
        """What the figure was, and what its change has to exceed."""
        return f"was {figure_text(self.metric, self.before)}, spread {self.spread:.0%}"


class Comparison(NamedTuple):
    """The differences of each case by the name of the metric, and what makes the reports less comparable."""

    cases: dict[Case, dict[str, Difference]]
    remarks: list[str]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of each case under the titles."""
        return [
            (case.title, *(found[name].now_text if name in found else NOT_MEASURED for name in COMPARED))
            for case, found in self.cases.items()
        ]


def compare(before: BenchReport, after: BenchReport) -> Comparison:
    """Compare the cases that both reports have."""
    known = {result.case: result for result in before.results}
    cases: dict[Case, dict[str, Difference]] = {}
    for result in after.results:
        for name in COMPARED if result.case in known else ():
            then, now = known[result.case].figure(name), result.figure(name)
            if then is not None and now is not None:
                cases.setdefault(result.case, {})[name] = Difference(name, then, now)
    return Comparison(cases, list(_remarks(before, after)))


def _remarks(before: BenchReport, after: BenchReport) -> Iterator[str]:
    for key in ("CPU", "CPUs", "kernel", "python", "tykpy", "protobuf"):
        then, now = before.machine.get(key), after.machine.get(key)
        if then != now:
            yield f"{key}: {then} then, {now} now"
    if disturbed := disturbance(before.results):
        yield f"then, {disturbed}"
    then_cases, now_cases = ({result.case for result in report.results} for report in (before, after))
    for missing, run, other in ((now_cases - then_cases, "now", "then"), (then_cases - now_cases, "then", "now")):
        if count := len(missing):
            what, were = ("case", "was") if count == 1 else ("cases", "were")
            yield f"{count} {what} of {run} {were} not measured {other}"


def row(result: CaseResult) -> tuple[str, ...]:
    """Return the cells of a case under `COLUMNS`; CPU is per dispatch."""
    rate = result.figure("rate")
    return (
        result.case.title,
        f"{rate.median:,.0f}" if rate else NOT_MEASURED,
        f"{rate.spread:.0%}" if rate and rate.count > 1 else NOT_MEASURED,
        *(duration(result.median(name)) for name in ("p50_us", "p99_us", "p999_us")),
        *(duration(result.median(name)) for name in ("broker_us", "workers_us", "ring_us", "load_us")),
        megabytes(result.median("memory_mib")),
        limit_of(result).part.value,
    )


def fitting(rows: Sequence[Sequence[str]], width: int) -> tuple[str, ...]:
    """Return the columns that these rows have room for without folding a cell; the case and its rate always stay."""
    needed = {column: max(len(column), *(len(row[number]) for row in rows), 0) for number, column in enumerate(COLUMNS)}
    for column in LEFT_OUT_FIRST:
        if sum(needed.values()) + _BORDER * len(needed) + 1 <= width:
            break
        del needed[column]
    return tuple(needed)


def figure_text(metric: str, figure: Figure) -> str:
    """Return a figure's median in its unit."""
    if metric == "rate":
        return f"{figure.median:,.0f}/s"
    return (duration if metric.endswith("_us") else megabytes)(figure.median)


def remarks(results: Sequence[CaseResult]) -> list[str]:
    """Say what limits each case, what went wrong, and what makes the figures doubtful."""
    lines = [f"{result.case.title}: {remark(result)}" for result in results]
    disturbed = disturbance(results)
    return [*lines, f"doubtful: {disturbed}"] if disturbed else lines


def remark(result: CaseResult) -> str:
    """Say what limits a case, and what went wrong in it."""
    limit, failures = limit_of(result), failures_text(result)
    found = "not limited" if limit.part is Bottleneck.NONE else f"limited by {limit.part.value}"
    return f"{found}: {limit.reason}" + (f"; {failures}" if failures else "")


def duration(us: float | None) -> str:
    """Return microseconds in a unit that fits."""
    if us is None:
        return NOT_MEASURED
    if us >= 1e6:
        return f"{us / 1e6:.3g} s" if us < 1e9 else f"{us / 1e6:,.0f} s"
    if us >= 1e3:
        return f"{us / 1e3:.3g} ms" if us < 1e5 else f"{us / 1e3:.0f} ms"
    return f"{us:.3g} us"


def megabytes(mib: float | None) -> str:
    """Return memory as text."""
    return NOT_MEASURED if mib is None else f"{mib:.0f} MiB"
