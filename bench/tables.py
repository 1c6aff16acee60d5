"""The figures as rows of text, for the terminal and for the HTML report."""

from collections.abc import Sequence
from typing import Final

from tykpy.bench.compare import SHOWN, Comparison, Difference
from tykpy.bench.limits import Bottleneck, disturbance, failures_text, limit_of
from tykpy.bench.results import METRIC, CaseResult, Figure, Metric

COLUMNS: Final = (
    "case", "dispatches/s", "spread", "p50", "p99", "p99.9", "CPU broker", "CPU workers", "of it ring", "CPU load",
    "memory", "limit",
)  # fmt: skip
COMPARED: Final = ("case", *(METRIC[name].title for name in SHOWN))
LEFT_OUT_FIRST: Final = ("of it ring", "CPU load", "p99.9", "spread", "memory", "CPU workers", "CPU broker", "p50")
"""Columns that a narrow terminal goes without, in this order; files have all of them."""
NOT_MEASURED: Final = "-"
_BORDER: Final = 3
"""Columns of the terminal between two cells."""


def row(result: CaseResult) -> tuple[str, ...]:
    """The cells of a case under `COLUMNS`; CPU is per dispatch."""
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
    """Those of `COLUMNS` that these rows have room for, none of them folded; the case and its rate always stay."""
    needed = {column: max(len(column), *(len(row[number]) for row in rows), 0) for number, column in enumerate(COLUMNS)}
    for column in LEFT_OUT_FIRST:
        if sum(needed.values()) + _BORDER * len(needed) + 1 <= width:
            break
        del needed[column]
    return tuple(needed)


def hidden_columns(results: Sequence[CaseResult], width: int) -> list[str]:
    """Those that are left out."""
    shown = fitting([row(result) for result in results], width)
    return [column for column in COLUMNS if column not in shown]


def compared_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The cells of each case under `COMPARED`: what it is now, the change, and what the change is."""
    return [
        (case.title, *(change_text(found[name]) if name in found else NOT_MEASURED for name in SHOWN))
        for case, found in comparison.by_case().items()
    ]


def change_text(difference: Difference) -> str:
    """What a figure is now, how it changed, and whether that is more than noise."""
    return f"{figure_text(difference.metric, difference.after)} {difference.change:+.1%} {difference.verdict}"


def then_text(difference: Difference) -> str:
    """What a figure was, and what its change has to exceed."""
    return f"was {figure_text(difference.metric, difference.before)}, spread {difference.spread:.0%}"


def figure_text(metric: Metric, figure: Figure) -> str:
    """A figure's median in its unit."""
    if metric.unit == "us":
        return duration(figure.median)
    return megabytes(figure.median) if metric.unit == "MiB" else f"{figure.median:,.0f}{metric.unit}"


def remarks(results: Sequence[CaseResult]) -> list[str]:
    """What limits each case, what went wrong, and what makes the figures doubtful."""
    lines = [f"{result.case.title}: {remark(result)}" for result in results]
    disturbed = disturbance(results)
    return [*lines, f"doubtful: {disturbed}"] if disturbed else lines


def remark(result: CaseResult) -> str:
    """What limits a case, and what went wrong in it."""
    limit, failures = limit_of(result), failures_text(result)
    found = "not limited" if limit.part is Bottleneck.NONE else f"limited by {limit.part.value}"
    return f"{found}: {limit.reason}" + (f"; {failures}" if failures else "")


def duration(us: float | None) -> str:
    """Microseconds in a unit that fits."""
    if us is None:
        return NOT_MEASURED
    if us >= 1e6:
        return f"{us / 1e6:.3g} s" if us < 1e9 else f"{us / 1e6:,.0f} s"
    if us >= 1e3:
        return f"{us / 1e3:.3g} ms" if us < 1e5 else f"{us / 1e3:.0f} ms"
    return f"{us:.3g} us"


def megabytes(mib: float | None) -> str:
    """Memory as text."""
    return NOT_MEASURED if mib is None else f"{mib:.0f} MiB"
