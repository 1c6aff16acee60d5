"""The HTML report: one file that needs no other, with the tables and a few plots for each scenario.

Plots are inline SVG; their colours are the CSS classes c0 to c7.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from tykpy.bench.limits import disturbance
from tykpy.bench.results import BenchReport, CaseResult, group, labels
from tykpy.bench.tables import COLUMNS, COMPARED, NOT_MEASURED, SHOWN, Comparison, Difference, duration, remark, row

STYLE: Final = Path(__file__).parent / "page.css"
MAX_LINES: Final = 8
"""Most lines that can be distinguished in one plot."""
MOST_ON_A_LINE: Final = 8
"""Highest ratio of worker counts on a linear axis: beyond it, small counts would overlap."""
_CURVE_POINTS: Final = 140
_TEXT_COLUMNS: Final = ("case", "limit")
_BROKER, _WORKERS, _RING = ("broker", 0), ("workers", 1), ("ring", 2)
_PERCENTILES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
WIDTH: Final = 460
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 14, 46
COLOURS: Final = 8
_TICKS: Final = 5
_LEGEND_LINE: Final = 18
_LETTER: Final = 6.3
"""About the width of a letter in the legend, in pixels."""
_BAR: Final = 20
_BAR_GAP: Final = 12
_GROUP_GAP: Final = 14
_HEADING: Final = 26
_LEAST_APART: Final = 0.06
"""Share of an axis that a number of three digits needs."""
_ROOM_FOR_SUM: Final = 40
"""Pixels for the number behind the longest bar."""

Point = tuple[float, float]
Row = tuple[str, Sequence[float]]
"""A bar's name and its parts."""


class Series(NamedTuple):
    """One line. `colour` is a number; `ideal` draws it dashed, without marks."""

    name: str
    points: Sequence[Point]
    colour: int
    ideal: bool = False
    marks: bool = True


def short(value: float) -> str:
    """Return 12345 as `12.3k`."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Axis:
    """From low to high; `ticks` are (value, text)."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    text: Callable[[float], str] = short
    """Formats a value."""

    def share(self, value: float) -> float:
        """Return where a value lies, from 0 at the low end to 1 at the high end."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(title: str, highest: float, text: Callable[[float], str] = short) -> Axis:
    """Return an axis from 0 to a round number that is not below `highest`."""
    highest = highest or 1.0
    unit = 10.0 ** math.floor(math.log10(highest / _TICKS))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * _TICKS >= highest * 0.999)
    count = math.ceil(highest / step * 0.999)
    ticks = tuple((step * number, text(step * number)) for number in range(count + 1))
    return Axis(title, 0.0, count * step, ticks, text=text)


def log_axis(title: str, lowest: float, highest: float, text: Callable[[float], str] = short) -> Axis:
    """Return an axis between whole powers of ten around the values."""
    low = math.floor(math.log10(max(lowest, 1e-9)))
    high = max(low + 1, math.ceil(math.log10(max(highest, 1e-9)) - 1e-9))
    return Axis(
        title, 10.0**low, 10.0**high, tuple((10.0**at, text(10.0**at)) for at in range(low, high + 1)), log=True
    )


def spaced(axis: Axis) -> Axis:
    """Return the axis without ticks whose texts would overlap the one before."""
    shown: list[tuple[float, str]] = []
    for tick in axis.ticks:
        if not shown or axis.share(tick[0]) - axis.share(shown[-1][0]) >= _LEAST_APART:
            shown.append(tick)
    return replace(axis, ticks=tuple(shown))


def line_chart(label: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Return a plot with its legend below; `label` is its text alternative."""
    legend, extra = _legend([(one.name, one.colour) for one in series if not one.ideal], HEIGHT)
    parts = [_grid(x, y)]
    parts += [_line(one, x, y) for one in sorted(series, key=lambda one: not one.ideal)]
    return _svg(label, HEIGHT + extra, [*parts, legend])


def stacked_bars(
    label: str, groups: Sequence[Sequence[Row]], parts: Sequence[tuple[str, int]], axis: Axis, *, heading: bool = False
) -> str:
    """Return one bar for each row, made of the parts (name, colour). Groups stand apart; `heading` shows the label."""
    names = [name for rows in groups for name, _ in rows]
    place = _Place(min(190.0, max(map(len, names), default=0) * _LETTER + 14), _HEADING if heading else TOP)
    bottom = place.top + len(names) * (_BAR + _BAR_GAP) + max(0, len(groups) - 1) * _GROUP_GAP
    drawn = [_bar_grid(axis, place, bottom)]
    if heading:
        drawn.append(_text(14, 17, label, "start", "heading"))
    at = place.top + _BAR_GAP / 2
    for rows in groups:
        for name, values in rows:
            drawn.append(_bar(name, list(zip(values, parts, strict=True)), at, place.left, axis))
            at += _BAR + _BAR_GAP
        at += _GROUP_GAP
    legend, extra = _legend(parts, bottom + BOTTOM, place.left) if len(parts) > 1 else ("", 0.0)
    return _svg(label, bottom + BOTTOM + extra, [*drawn, legend])


class _Place(NamedTuple):
    """The corner where the bars begin."""

    left: float
    top: float


def _svg(label: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label, quote=True)}">'
    return "\n".join([head, *parts, "</svg>"])


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> str:
    base = HEIGHT - BOTTOM
    parts = []
    for value, text in y.ticks:
        at = _y(y, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(LEFT - 8, at + 4, text, "end"))
    for value, text in x.ticks:
        at = _x(x, value)
        parts.append(f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(_text(at, base + 17, text, "middle"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, base + 35, x.title, "middle", "title"))
    middle = (TOP + base) / 2
    parts.append(
        f'<text class="title" x="14" y="{middle:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle:.0f})">{escape(y.title)}</text>'
    )
    return "\n".join(parts)


def _line(one: Series, x: Axis, y: Axis) -> str:
    places = [(_x(x, a), _y(y, b)) for a, b in one.points]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    style = "ideal" if one.ideal else "line"
    parts = [f'<path class="{style} c{one.colour % COLOURS}" d="{path}"/>']
    if one.marks and not one.ideal:
        for (a, b), (value, height) in zip(places, one.points, strict=True):
            title = escape(f"{one.name}: {short(height)} at {short(value)}")
            mark = f'<circle class="mark c{one.colour % COLOURS}" cx="{a:.1f}" cy="{b:.1f}" r="4">'
            parts.append(f"{mark}<title>{title}</title></circle>")
    return "\n".join(parts)


def _bar_grid(axis: Axis, place: _Place, base: float) -> str:
    parts = []
    for value, text in axis.ticks:
        at = place.left + axis.share(value) * _bar_room(place.left)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{place.top}" y2="{base:.1f}"/>')
        parts.append(_text(at, base + 16, text, "middle"))
    parts.append(_text(place.left + _bar_room(place.left) / 2, base + 35, axis.title, "middle", "title"))
    return "\n".join(parts)


def _bar(
    name: str, values: Sequence[tuple[float, tuple[str, int]]], top: float, left: float, axis: Axis
) -> str:  # fmt: skip
    at = left
    parts = [_text(left - 8, top + 14, name, "end")]
    for value, (part, colour) in values:
        width = axis.share(value) * _bar_room(left)
        title = f"<title>{escape(name)}, {escape(part)}: {_exact(value)}</title>"
        place = f'x="{at:.1f}" y="{top:.1f}" width="{width:.1f}" height="{_BAR}"'
        parts.append(f'<rect class="bar c{colour % COLOURS}" {place}>{title}</rect>')
        at += width
    parts.append(_text(at + 6, top + 14, axis.text(sum(value for value, _ in values)), "start", "sum"))
    return "\n".join(parts)


def _exact(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _bar_room(left: float) -> float:
    return WIDTH - left - RIGHT - _ROOM_FOR_SUM


def _legend(entries: Sequence[tuple[str, int]], top: float, begin: float = LEFT) -> tuple[str, float]:
    """Return the legend and its height."""
    parts, left, line = [], begin, 0
    for name, colour in entries:
        width = 22 + len(name) * _LETTER
        if left + width > WIDTH - RIGHT and left > begin:
            left, line = begin, line + 1
        y = top + line * _LEGEND_LINE + 4
        parts.append(
            f'<rect class="bar c{colour % COLOURS}" x="{left:.0f}" y="{y:.0f}" width="11" height="11" rx="2"/>'
        )
        parts.append(_text(left + 16, y + 10, name, "start"))
        left += width + 8
    return "\n".join(parts), (line + 1) * _LEGEND_LINE + 8


def _text(x: float, y: float, text: str, anchor: str, style: str = "label") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def html(report: BenchReport, comparison: Comparison | None = None) -> str:
    """Return the whole page."""
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
    for case, found in comparison.cases.items():
        cells = "".join(_change(found[name]) if name in found else _cell("", NOT_MEASURED) for name in SHOWN)
        rows.append(f"<tr>{_cell('case', case.title)}{cells}</tr>")
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in comparison.remarks)
    return _table("What changed", COMPARED, rows, explained) + (f"\n<ul>{remarks}</ul>" if remarks else "")


def _change(difference: Difference) -> str:
    style = difference.trend.name.lower()
    return f"<td class='{style}'>{escape(difference.now_text)}<small>{escape(difference.then_text)}</small></td>"


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
    """Plot dispatches per second against workers, with the ideal rate of n workers."""
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
    return line_chart("throughput by workers", series, axis, _rate_axis(series))


def _ideal(points: Sequence[Point]) -> list[Point]:
    """Return the ideal line from the first point; it has many points because a logarithmic axis bends it."""
    (first, rate), last = points[0], points[-1][0]
    counts = [first + (last - first) * number / _CURVE_POINTS for number in range(_CURVE_POINTS + 1)]
    return [(count, rate * count / first) for count in counts]


def _workers_axis(title: str, counts: Sequence[float]) -> Axis:
    low, high = counts[0], counts[-1]
    ticks = tuple((count, f"{count:.0f}" if count else "unknown") for count in counts)
    if low and high / low > MOST_ON_A_LINE:
        return spaced(Axis(title, low / 1.1, high * 1.1, ticks, log=True))
    return spaced(Axis(title, low - 0.25, high + 0.25, ticks))


def _of_all(shown: int, everything: int) -> str:
    return f" ({shown} of {everything} cases)" if shown < everything else ""


def _rate_axis(series: Sequence[Series]) -> Axis:
    values = [point[1] for one in series for point in one.points if point[1] > 0] or [1.0]
    if max(values) / min(values) > 30:
        return log_axis("dispatches/s", min(values), max(values))
    return linear_axis("dispatches/s", max(values))


def latency(results: list[CaseResult]) -> str:
    """Plot latency against percentile, both logarithmic."""
    series = []
    shown = _labelled(results)[:: math.ceil(len(results) / MAX_LINES)]
    for colour, (label, result) in enumerate(shown):
        series.append(Series(label, _curve(result), colour, marks=False))
    most = max((math.log10(max(10, result.latencies.total)) for _, result in shown), default=1.0)
    ticks = tuple((_nines(percent), f"{percent:g}%") for percent in _PERCENTILES if _nines(percent) <= most)
    x = Axis("percentile" + _of_all(len(shown), len(results)), 0.0, most, ticks)
    values = [point[1] for one in series for point in one.points if point[1] > 0] or [1.0]
    return line_chart("latency by percentile", series, x, log_axis("latency", min(values), max(values), duration))


def _nines(percent: float) -> float:
    """Return 0 for 0 %, 1 for 90 %, 2 for 99 %, and so on."""
    return -math.log10(1 - percent / 100)


def _curve(result: CaseResult) -> list[tuple[float, float]]:
    histogram = result.latencies
    most = math.log10(max(10, histogram.total))
    places = [most * number / _CURVE_POINTS for number in range(_CURVE_POINTS + 1)]
    return [(place, histogram.percentile(100 * (1 - 10**-place)) / 1000) for place in places]


def cpu(results: list[CaseResult]) -> str:
    """Plot CPU microseconds per dispatch by process, with the ring's share taken out of both."""
    rows = [(label, _cpu_parts(result)) for label, result in _labelled(results)]
    axis = linear_axis("CPU time per dispatch", max(sum(values) for _, values in rows), duration)
    return stacked_bars("CPU per dispatch", [rows], (_BROKER, _RING, _WORKERS), axis)


def _cpu_parts(result: CaseResult) -> tuple[float, float, float]:
    broker, workers = result.median("broker_us") or 0.0, result.median("workers_us") or 0.0
    ring = result.median("ring_broker_us") or 0.0, result.median("ring_workers_us") or 0.0
    # The ring was measured by itself, under slightly different conditions: no part may become negative.
    ours, theirs = min(ring[0], broker), min(ring[1], workers)
    return broker - ours, ours + theirs, workers - theirs


def memory(results: list[CaseResult]) -> str:
    """Plot the PSS of the broker and of all its workers after the load."""
    rows = []
    for label, result in _labelled(results):
        rows.append((label, (result.median("broker_mib") or 0.0, result.median("workers_mib") or 0.0)))
    axis = linear_axis("MiB (PSS)", max(sum(values) for _, values in rows))
    return stacked_bars("memory", [rows], (_BROKER, _WORKERS), axis)
