"""Plots as inline SVG, without any library: lines over two axes, and stacked bars. Colours are CSS classes c0..c7."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Final, NamedTuple

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
"""Of an axis: room for a number of three digits."""
_ROOM_FOR_SUM: Final = 40
"""For the number behind the longest bar."""

Point = tuple[float, float]
Row = tuple[str, Sequence[float]]
"""A bar's name, and its parts."""


class Series(NamedTuple):
    """One line. `colour` is a number; `ideal` draws it dashed, without marks."""

    name: str
    points: Sequence[Point]
    colour: int
    ideal: bool = False
    marks: bool = True


def short(value: float) -> str:
    """12345 as `12.3k`."""
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
    """How a value of it is written."""

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(title: str, highest: float, text: Callable[[float], str] = short) -> Axis:
    """From 0 to a round number that is not below `highest`."""
    highest = highest or 1.0
    unit = 10.0 ** math.floor(math.log10(highest / _TICKS))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * _TICKS >= highest * 0.999)
    count = math.ceil(highest / step * 0.999)
    ticks = tuple((step * number, text(step * number)) for number in range(count + 1))
    return Axis(title, 0.0, count * step, ticks, text=text)


def log_axis(title: str, lowest: float, highest: float, text: Callable[[float], str] = short) -> Axis:
    """Whole powers of ten around the values."""
    low = math.floor(math.log10(max(lowest, 1e-9)))
    high = max(low + 1, math.ceil(math.log10(max(highest, 1e-9)) - 1e-9))
    return Axis(
        title, 10.0**low, 10.0**high, tuple((10.0**at, text(10.0**at)) for at in range(low, high + 1)), log=True
    )


def spaced(axis: Axis) -> Axis:
    """The axis without those ticks whose texts would run into the one before."""
    kept: list[tuple[float, str]] = []
    for tick in axis.ticks:
        if not kept or axis.share(tick[0]) - axis.share(kept[-1][0]) >= _LEAST_APART:
            kept.append(tick)
    return replace(axis, ticks=tuple(kept))


def line_chart(label: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """A plot with its legend below; `label` is for those who cannot see it."""
    legend, extra = _legend([(one.name, one.colour) for one in series if not one.ideal], HEIGHT)
    parts = [_grid(x, y)]
    parts += [_line(one, x, y) for one in sorted(series, key=lambda one: not one.ideal)]
    return _svg(label, HEIGHT + extra, [*parts, legend])


def stacked_bars(
    label: str, groups: Sequence[Sequence[Row]], parts: Sequence[tuple[str, int]], axis: Axis, *, heading: bool = False
) -> str:
    """One bar for each row, made of the parts (name, colour); groups stand apart. `heading`: show the label, too."""
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
    """Where the bars begin."""

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
    """The legend, and the height that it takes."""
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
