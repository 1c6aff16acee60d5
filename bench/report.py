"""The HTML report: one file that needs no other, with the tables and a few plots for each scenario.

Plots are inline SVG; their colours are the CSS classes c0 to c7.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from tykpy.bench.limits import disturbance
from tykpy.bench.results import BenchReport, CaseResult, group, labels
from tykpy.bench.tables import COLUMNS, COMPARED, NOT_MEASURED, Comparison, Difference, duration, megabytes, remark, row

STYLE: Final = Path(__file__).parent / "page.css"
MAX_LINES: Final = 8
"""Most lines that can be distinguished in one plot: as many as there are colours."""
MOST_WORKERS_ON_A_LINE: Final = 8
"""Highest ratio of worker counts on a linear axis: beyond it, small counts would overlap."""
MOST_RATES_ON_A_LINE: Final = 30
_CURVE_POINTS: Final = 140
_TEXT_COLUMNS: Final = ("case", "limit")
_BROKER, _WORKERS, _RING = ("broker", 0), ("workers", 1), ("ring", 2)
_PERCENTILES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
WIDTH: Final = 460
HEIGHT: Final = 280
LEFT, RIGHT, TOP, BOTTOM, SIDE = 62, 8, 28, 46, 20
"""Pixels around a plot; SIDE is left free between its left end and the lowest value, and at the other end."""
_TICKS: Final = 5
_LEGEND_LINE: Final = 18
_LETTER: Final = 6.3
"""About the width of a letter in the legend, in pixels."""
_APART: Final = 24
"""Pixels that a number of three digits needs."""
_BAR: Final = 14

Point = tuple[float, float]
Row = tuple[str, Sequence[float]]
"""A bar's name and its parts."""
Text = Callable[[float], str]
"""Formats a value."""


class Line(NamedTuple):
    """A line of a plot. One without a name is dashed, and not in the legend."""

    name: str
    points: Sequence[Point]
    colour: int
    marks: bool = True


class Axis(NamedTuple):
    """An axis from the first of its ticks (value, text) to the last."""

    title: str
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies, from 0 at the low end to 1 at the high end."""
        low, high = self.ticks[0][0], self.ticks[-1][0]
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return (value - low) / (high - low) if high > low else 0.5


def short(value: float) -> str:
    """Return 12345 as `12.3k`."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def axis_of(title: str, values: Iterable[float], text: Text = short, *, linear_up_to: float) -> Axis:
    """Return an axis from 0 to a round number; or between powers of ten, if the values differ by a higher ratio."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = min(known), max(known)
    if high / low > linear_up_to:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high) - 1e-9)
        places = [10.0**power for power in range(first, max(last, first + 1) + 1)]
        return Axis(title, [(place, text(place)) for place in places], log=True)
    unit = 10.0 ** math.floor(math.log10(high / _TICKS))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * _TICKS >= high * 0.999)
    return Axis(title, [(step * number, text(step * number)) for number in range(math.ceil(high / step * 0.999) + 1)])


def line_chart(label: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Return a plot with its legend below; `label` is its text alternative."""
    base, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [_text(4, 12, y.title, "start", "title"), _text((LEFT + right) / 2, base + 36, x.title, "middle", "title")]
    for value, text in y.ticks:
        at = _y(y, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(LEFT - 8, at + 4, text, "end"))
    before = 0.0
    for value, text in x.ticks:
        if (at := _x(x, value)) - before >= _APART:
            parts.append(f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 4}"/>')
            parts.append(_text(at, base + 17, text, "middle"))
            before = at
    for line in sorted(lines, key=lambda line: bool(line.name)):
        places = [(_x(x, a), _y(y, b)) for a, b in line.points]
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        parts.append(f'<path class="{"line" if line.name else "ideal"} c{line.colour}" d="{path}"/>')
        for (a, b), (value, height) in zip(places, line.points, strict=True) if line.marks and line.name else ():
            title = escape(f"{line.name}: {short(height)} at {short(value)}")
            mark = f'<circle class="mark c{line.colour}" cx="{a:.1f}" cy="{b:.1f}" r="4">'
            parts.append(f"{mark}<title>{title}</title></circle>")
    return _svg(label, parts, HEIGHT, [(line.name, line.colour) for line in lines if line.name])


def stacked_bars(
    label: str, groups: Sequence[Sequence[Row]], parts: Sequence[tuple[str, int]], text: Text, *, heading: bool = False
) -> str:
    """Return one bar for each row, made of the parts (name, colour). Groups stand apart; `heading` shows the label."""
    highest = max(sum(values) for rows in groups for _, values in rows) or 1.0
    drawn, top = ([_text(4, 14, label, "start", "heading")], 26) if heading else ([], 0)
    for rows in groups:
        for name, values in rows:
            drawn.append(_text(4, top + 12, f"{name}: {text(sum(values))}", "start"))
            at = 4.0
            for value, (part, colour) in zip(values, parts, strict=True):
                place = f'x="{at:.1f}" y="{top + 17}" width="{value / highest * (WIDTH - 8):.1f}" height="{_BAR}"'
                title = f"<title>{escape(name)}, {escape(part)}: {text(value)}</title>"
                drawn.append(f'<rect class="bar c{colour}" {place}>{title}</rect>')
                at += value / highest * (WIDTH - 8)
            top += _BAR + 24
        top += _BAR
    return _svg(label, drawn, top, parts if len(parts) > 1 else ())


def _svg(label: str, parts: Sequence[str], height: int, legend: Sequence[tuple[str, int]]) -> str:
    """Return the picture with its legend below."""
    drawn, left, top = [*parts], 4.0, height + 4
    for name, colour in legend:
        width = 30 + len(name) * _LETTER
        if left + width > WIDTH and left > 4:
            left, top = 4.0, top + _LEGEND_LINE
        drawn.append(f'<rect class="bar c{colour}" x="{left:.0f}" y="{top}" width="11" height="11" rx="2"/>')
        drawn.append(_text(left + 16, top + 10, name, "start"))
        left += width
    view = f'viewBox="0 0 {WIDTH} {top + (_LEGEND_LINE if legend else 0)}"'
    return "\n".join([f'<svg {view} role="img" aria-label="{escape(label, quote=True)}">', *drawn, "</svg>"])


def _x(axis: Axis, value: float) -> float:
    return LEFT + SIDE + axis.share(value) * (WIDTH - LEFT - RIGHT - 2 * SIDE)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


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


def _changes(comparison: Comparison) -> str:
    explained = "Since the run that was given to --compare. A change within the repetitions' own spread is noise."
    rows = [
        [
            _cell("case", case.title),
            *(_change(found[name]) if name in found else _cell("", NOT_MEASURED) for name in COMPARED),
        ]
        for case, found in comparison.cases.items()
    ]
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in comparison.remarks)
    return _table("What changed", explained, ("case", *COMPARED.values()), rows) + f"\n<ul>{remarks}</ul>"


def _change(difference: Difference | None) -> str:
    if difference is None:
        return _cell("", NOT_MEASURED)
    style = difference.trend.name.lower()
    return f"<td class='{style}'>{escape(difference.now_text)}<small>{escape(difference.then_text)}</small></td>"


def _figures(report: BenchReport) -> str:
    rows = [map(_cell, COLUMNS, row(result)) for result in report.results]
    doubtful = disturbance(report.results)
    explained = "Medians; CPU is per dispatch." + (f" Doubtful: {doubtful}." if doubtful else "")
    return _table("All cases", explained, COLUMNS, rows)


def _table(title: str, explained: str, columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(_cell(column, column, "th") for column in columns)
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f"<h2>{escape(title)}</h2>\n<p class='soft'>{escape(explained)}</p>\n"
        f"<div class='scroll'><table>\n<tr>{head}</tr>\n{body}\n</table></div>"
    )


def _cell(column: str, text: str, kind: str = "td") -> str:
    style = " class='text'" if column in _TEXT_COLUMNS else ""
    return f"<{kind}{style}>{escape(text)}</{kind}>"


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
    variants = list(group(results, lambda case: case.variant).values())
    names = labels([members[0].case for members in variants], with_workers=False)
    shown = list(zip(names, variants, strict=True))[:: math.ceil(len(variants) / MAX_LINES)]
    lines: list[Line] = []
    for colour, (name, members) in enumerate(shown):
        points = [(float(member.case.workers), member.median("rate") or 0.0) for member in members]
        lines.append(Line(name, points, colour))
        if len(points) > 1 and not members[0].case.rate:
            (first, rate), *_ = points
            lines.append(Line("", [(count, rate * count / first) for count, _ in points], colour))
    title = "workers" if all(line.name for line in lines) else "workers (dashed: ideal)"
    counts = sorted({count for line in lines for count, _ in line.points if line.name})
    x = Axis(
        title + _of_all(len(shown), len(variants)),
        [(count, f"{count:.0f}" if count else "unknown") for count in counts],
        log=counts[-1] > MOST_WORKERS_ON_A_LINE * counts[0] > 0,
    )
    rates = [rate for line in lines for _, rate in line.points]
    y = axis_of("dispatches/s", rates, linear_up_to=MOST_RATES_ON_A_LINE)
    return line_chart("throughput by workers", lines, x, y)


def _of_all(shown: int, everything: int) -> str:
    return f" ({shown} of {everything} cases)" if shown < everything else ""


def latency(results: list[CaseResult]) -> str:
    """Plot latency against percentile, both logarithmic."""
    shown = _labelled(results)[:: math.ceil(len(results) / MAX_LINES)]
    lines = [Line(label, _curve(result), colour, marks=False) for colour, (label, result) in enumerate(shown)]
    most = max(line.points[-1][0] for line in lines)
    ticks = [(_nines(percent), f"{percent:g}%") for percent in _PERCENTILES if _nines(percent) < most + 1]
    x = Axis("percentile" + _of_all(len(shown), len(results)), ticks)
    y = axis_of("latency", [us for line in lines for _, us in line.points], duration, linear_up_to=0)
    return line_chart("latency by percentile", lines, x, y)


def _nines(percent: float) -> float:
    """Return 0 for 0 %, 1 for 90 %, 2 for 99 %, and so on."""
    return -math.log10(1 - percent / 100)


def _curve(result: CaseResult) -> list[tuple[float, float]]:
    histogram = result.latencies_ns
    most = math.log10(max(10, histogram.total()))
    places = [most * number / _CURVE_POINTS for number in range(_CURVE_POINTS + 1)]
    return [(place, histogram.percentile(100 * (1 - 10**-place)) / 1000) for place in places]


def cpu(results: list[CaseResult]) -> str:
    """Plot CPU microseconds per dispatch by process, with the ring's share taken out of both."""
    rows = [(label, _cpu_parts(result)) for label, result in _labelled(results)]
    return stacked_bars("CPU per dispatch", [rows], (_BROKER, _RING, _WORKERS), duration)


def _cpu_parts(result: CaseResult) -> tuple[float, float, float]:
    broker, workers = result.median("broker_us") or 0.0, result.median("workers_us") or 0.0
    ring = result.median("ring_broker_us") or 0.0, result.median("ring_workers_us") or 0.0
    # The ring was measured by itself, under slightly different conditions: no part may become negative.
    ours, theirs = min(ring[0], broker), min(ring[1], workers)
    return broker - ours, ours + theirs, workers - theirs


def memory(results: list[CaseResult]) -> str:
    """Plot the PSS of the broker and of all its workers after the load."""
    parts = ("broker_mib", "workers_mib")
    rows = [(label, [result.median(name) or 0.0 for name in parts]) for label, result in _labelled(results)]
    return stacked_bars("memory", [rows], (_BROKER, _WORKERS), megabytes)
