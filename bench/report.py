"""The HTML report: one file that needs no other, with the tables and a few plots for each scenario."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from tykpy.bench import svg
from tykpy.bench.compare import SHOWN, Comparison, Difference
from tykpy.bench.limits import disturbance
from tykpy.bench.results import BenchReport, CaseResult, group, labels
from tykpy.bench.svg import Axis, Series
from tykpy.bench.tables import COLUMNS, COMPARED, NOT_MEASURED, change_text, duration, remark, row, then_text

STYLE: Final = Path(__file__).parent / "page.css"
MAX_LINES: Final = 8
"""Lines of one plot that can still be told apart."""
MOST_ON_A_LINE: Final = 8
"""Times as many workers as the fewest: with more, the small numbers would lie on top of each other."""
_CURVE_POINTS: Final = 140
_TEXT_COLUMNS: Final = ("case", "limit")
_BROKER, _WORKERS, _RING = ("broker", 0), ("workers", 1), ("ring", 2)
_PERCENTILES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def html(report: BenchReport, comparison: Comparison | None = None) -> str:
    """The whole page."""
    parts = [_heading(report)]
    if comparison is not None:
        parts.append(_changes(comparison))
    parts.append(_figures(report))
    for name, results in group(report.results, lambda case: case.scenario).items():
        parts.append(_scenario(name, results))
    inside = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>tykpy bench</title>\n<style>\n{STYLE.read_text()}</style>\n</head>\n"
        f"<body>\n<main>\n{inside}\n</main>\n</body>\n</html>\n"
    )


def _heading(report: BenchReport) -> str:
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.machine.items()
    )
    return f"<h1>tykpy bench</h1>\n<p class='soft'><code>{escape(report.command)}</code></p>\n<dl>{facts}</dl>"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _changes(comparison: Comparison) -> str:
    explained = "Since the run that was given to --compare. A change within the repetitions' own spread is noise."
    rows = []
    for case, found in comparison.by_case().items():
        cells = "".join(_change(found[name]) if name in found else _cell("", NOT_MEASURED) for name in SHOWN)
        rows.append(f"<tr>{_cell('case', case.title)}{cells}</tr>")
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in comparison.remarks)
    return _table("What changed", COMPARED, rows, explained) + (f"\n<ul>{remarks}</ul>" if remarks else "")


def _change(difference: Difference) -> str:
    style = difference.verdict.name.lower()
    return f"<td class='{style}'>{escape(change_text(difference))}<small>{escape(then_text(difference))}</small></td>"


def _figures(report: BenchReport) -> str:
    rows = []
    for result in report.results:
        cells = "".join(_cell(name, text) for name, text in zip(COLUMNS, row(result), strict=True))
        rows.append(f"<tr>{cells}</tr>")
    explained = f"Medians; CPU is per dispatch. {_sentence(disturbance(report.results))}"
    return _table("All cases", COLUMNS, rows, explained)


def _table(title: str, columns: Sequence[str], rows: Sequence[str], explained: str) -> str:
    head = "".join(_cell(column, column).replace("td", "th") for column in columns)
    body = "\n".join(rows)
    return (
        f"<h2>{escape(title)}</h2>\n<p class='soft'>{escape(explained)}</p>\n"
        f"<div class='scroll'><table>\n<tr>{head}</tr>\n{body}\n</table></div>"
    )


def _cell(column: str, text: str) -> str:
    return f"<td class='text'>{escape(text)}</td>" if column in _TEXT_COLUMNS else f"<td>{escape(text)}</td>"


def _scenario(name: str, results: list[CaseResult]) -> str:
    plots = [("Throughput", throughput(results)), ("Latency", latency(results))]
    if all(result.median("total_us") is not None for result in results):
        plots.append(("CPU per dispatch", cpu(results)))
    if all(result.median("memory_mib") is not None for result in results):
        plots.append(("Memory", memory(results)))
    cards = "\n".join(f"<div class='card'><h3>{title}</h3>\n{plot}\n</div>" for title, plot in plots)
    remarks = "".join(
        f"<li><b>{escape(label)}</b>: {escape(remark(result))}</li>" for label, result in _labelled(results)
    )
    return f"<h2>{escape(name)}</h2>\n<div class='cards'>\n{cards}\n</div>\n<ul>{remarks}</ul>"


def _labelled(results: Sequence[CaseResult]) -> list[tuple[str, CaseResult]]:
    return list(zip(labels([result.case for result in results]), results, strict=True))


def throughput(results: list[CaseResult]) -> str:
    """Dispatches per second against workers, with what each case would come to if workers added up."""
    series: list[Series] = []
    variants = list(group(results, lambda case: case.variant).values())
    names = labels([members[0].case for members in variants], with_workers=False)
    shown = list(zip(names, variants, strict=True))[:: math.ceil(len(variants) / MAX_LINES)]
    for colour, (name, members) in enumerate(shown):
        points = [(float(member.case.workers), member.median("rate") or 0.0) for member in members]
        series.append(Series(name, points, colour))
        if len(points) > 1 and not members[0].case.rate:
            series.append(Series("ideal", _ideal(points), colour, ideal=True))
    title = "workers (dashed: ideal)" if any(one.ideal for one in series) else "workers"
    counts = sorted({float(member.case.workers) for _, members in shown for member in members})
    axis = _workers_axis(title + _of_all(len(shown), len(variants)), counts)
    return svg.line_chart("throughput by workers", series, axis, _rate_axis(series))


def _ideal(points: Sequence[svg.Point]) -> list[svg.Point]:
    """From the first point as if workers added up; many points, for on a logarithmic axis this is no straight line."""
    (first, rate), last = points[0], points[-1][0]
    counts = [first + (last - first) * number / _CURVE_POINTS for number in range(_CURVE_POINTS + 1)]
    return [(count, rate * count / first) for count in counts]


def _workers_axis(title: str, counts: Sequence[float]) -> Axis:
    low, high = counts[0], counts[-1]
    ticks = tuple((count, f"{count:.0f}" if count else "unknown") for count in counts)
    if low and high / low > MOST_ON_A_LINE:
        return svg.spaced(Axis(title, low / 1.1, high * 1.1, ticks, log=True))
    return svg.spaced(Axis(title, low - 0.25, high + 0.25, ticks))


def _of_all(shown: int, everything: int) -> str:
    return f" ({shown} of {everything} cases)" if shown < everything else ""


def _rate_axis(series: Sequence[Series]) -> Axis:
    values = [point[1] for one in series for point in one.points if point[1] > 0] or [1.0]
    if max(values) / min(values) > 30:
        return svg.log_axis("dispatches/s", min(values), max(values))
    return svg.linear_axis("dispatches/s", max(values))


def latency(results: list[CaseResult]) -> str:
    """Latency against percentile, both logarithmic, as far as there are values."""
    series = []
    shown = _labelled(results)[:: math.ceil(len(results) / MAX_LINES)]
    for colour, (label, result) in enumerate(shown):
        series.append(Series(label, _curve(result), colour, marks=False))
    most = max((math.log10(max(10, result.latencies.total)) for _, result in shown), default=1.0)
    ticks = tuple((_nines(percent), f"{percent:g}%") for percent in _PERCENTILES if _nines(percent) <= most)
    x = Axis("percentile" + _of_all(len(shown), len(results)), 0.0, most, ticks)
    values = [point[1] for one in series for point in one.points if point[1] > 0] or [1.0]
    return svg.line_chart(
        "latency by percentile", series, x, svg.log_axis("latency", min(values), max(values), duration)
    )


def _nines(percent: float) -> float:
    """0 for 0 %, 1 for 90 %, 2 for 99 %, and so on."""
    return -math.log10(1 - percent / 100)


def _curve(result: CaseResult) -> list[tuple[float, float]]:
    histogram = result.latencies
    most = math.log10(max(10, histogram.total))
    places = [most * number / _CURVE_POINTS for number in range(_CURVE_POINTS + 1)]
    return [(place, histogram.percentile(100 * (1 - 10**-place)) / 1000) for place in places]


def cpu(results: list[CaseResult]) -> str:
    """CPU microseconds per dispatch by process; what the ring alone needs is taken out of both."""
    rows = [(label, _cpu_parts(result)) for label, result in _labelled(results)]
    axis = svg.linear_axis("CPU time per dispatch", max(sum(values) for _, values in rows), duration)
    return svg.stacked_bars("CPU per dispatch", [rows], (_BROKER, _RING, _WORKERS), axis)


def _cpu_parts(result: CaseResult) -> tuple[float, float, float]:
    broker, workers = result.median("broker_us") or 0.0, result.median("workers_us") or 0.0
    ring = result.median("ring_broker_us") or 0.0, result.median("ring_workers_us") or 0.0
    # The ring was measured by itself, on a machine that is never quite the same: no part can be below nothing.
    ours, theirs = min(ring[0], broker), min(ring[1], workers)
    return broker - ours, ours + theirs, workers - theirs


def memory(results: list[CaseResult]) -> str:
    """PSS after the load by process; the broker's, and that of all its workers."""
    rows = []
    for label, result in _labelled(results):
        rows.append((label, (result.median("broker_mib") or 0.0, result.median("workers_mib") or 0.0)))
    axis = svg.linear_axis("MiB (PSS)", max(sum(values) for _, values in rows))
    return svg.stacked_bars("memory", [rows], (_BROKER, _WORKERS), axis)
