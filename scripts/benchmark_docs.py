"""`python -m scripts.benchmark_docs FILE`: show the JSON of `benchmarks.bars` in docs/benchmarks.md.

The table goes between two marks in the page; the plots are SVG files beside it that need no other file.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tykpy.bench.report import STYLE, Row, short, stacked_bars

DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = "benchmarks.md"
BEGIN: Final = "<!-- bars: begin -->"
END: Final = "<!-- bars: end -->"
_CPU: Final = ("broker_us", "workers_us")
_PARTS: Final = (("broker, or the server", 0), ("workers", 1))


class Wanted(NamedTuple):
    """A plot of some figures of some bars."""

    what: str
    figures: tuple[str, ...]
    bars: tuple[str, ...]


PLOTS: Final = {
    "throughput": Wanted("requests/s, header edit, 64 streams", ("rate",), ("throughput",)),
    "latency": Wanted("median latency in us, header edit, 1 stream", ("p50_us",), ("latency",)),
    "servers": Wanted("CPU time per dispatch in us, header edit, 64 streams", _CPU, ("throughput",)),
    "growth": Wanted(
        "CPU time per dispatch in us, as things become many", _CPU,
        ("bundles", "hooks", "connections", "idle-connections", "in-flight", "workers"),
    ),
    "transports": Wanted("round trip of 900 bytes in us, 64 in flight", ("p50_us",), ("ring",)),
}  # fmt: skip


class Plot(NamedTuple):
    """An SVG picture, and what it shows in words."""

    what: str
    svg: str


def write(report: dict[str, Any], docs: Path = DOCS) -> list[Path]:
    """Renew the page's table and the plots; return the files written. Raises ValueError for a page without marks."""
    page = docs / PAGE
    drawn = {f"benchmarks-{name}.svg": plot for name, plot in plots(report).items()}
    written = {page: with_table(page.read_text(), report, {name: plot.what for name, plot in drawn.items()})}
    written |= {docs / name: plot.svg for name, plot in drawn.items()}
    for path, text in written.items():
        path.write_text(text)
    return list(written)


def with_table(page: str, report: dict[str, Any], drawn: Mapping[str, str]) -> str:
    """Return the page with the table and these plots between its marks; `drawn` has descriptions by file name."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"docs/{PAGE} must have each of these lines once: {BEGIN} and {END}")
    before, _, rest = page.partition(BEGIN)
    images = "".join(f"\n![{what}]({name})\n" for name, what in drawn.items())
    return f"{before}{BEGIN}\n{table(report)}\n{images}{END}{rest.partition(END)[2]}"


def table(report: dict[str, Any]) -> str:
    """Return every promise with what was measured, and the conditions."""
    lines = ["| what | promised | measured (rounds) | met | figures |", "| --- | --- | --- | --- | --- |"]
    for bar in report["bars"]:
        cells = (bar["what"], bar["bar"], bar["measured"], "yes" if bar["met"] else "**no**", bar["detail"])
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"`{report['command']}`, medians of {report['rounds']} interleaved rounds of {report['seconds']:g} s: ",
    ]
    lines[-1] += ", ".join(f"{name} {value}" for name, value in report["machine"].items()) + "."
    lines += [f"Not measured: {name}: {why}" for name, why in report["failures"].items()]
    return "\n".join(lines)


def plots(report: dict[str, Any]) -> dict[str, Plot]:
    """Return the SVG files by name, for the bars that the report has."""
    points = {bar["name"]: bar["points"] for bar in report["bars"]}
    found = {}
    for name, wanted in PLOTS.items():
        if groups := [_rows(points[bar], wanted.figures) for bar in wanted.bars if points.get(bar)]:
            found[name] = Plot(wanted.what, _bars(wanted, groups))
    return found


def _rows(points: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> list[Row]:
    return [(point["label"], [point[figure] for figure in figures]) for point in points]


def _bars(wanted: Wanted, groups: list[list[Row]]) -> str:
    parts = _PARTS if wanted.figures == _CPU else ((wanted.what, 0),)
    chart = stacked_bars(wanted.what, groups, parts, short, heading=True)
    head, _, rest = chart.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    return (
        f'{head}>\n<style>\n{STYLE.read_text()}</style>\n<rect width="100%" height="100%" fill="var(--card)"/>{rest}\n'
    )


def main() -> None:
    """Run the command line."""
    for path in write(json.loads(Path(sys.argv[1]).read_text())):
        print(path)


if __name__ == "__main__":
    main()
