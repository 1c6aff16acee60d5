"""`python -m scripts.benchmark_docs FILE`: the JSON of `benchmarks.bars` as docs/benchmarks.md shows it.

The table goes between two marks in the page; the plots are SVG files beside it that need no other file.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from commands.bench import svg
from commands.bench.report import STYLE

DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = "benchmarks.md"
BEGIN: Final = "<!-- bars: begin -->"
END: Final = "<!-- bars: end -->"
SERVERS: Final = ("throughput",)
GROWTH: Final = ("bundles", "hooks", "connections", "idle-connections", "in-flight", "workers")
TRANSPORTS: Final = "ring"
_PARTS: Final = (("broker", 0), ("workers", 1))

Row = tuple[str, tuple[float, ...]]


def write(report: dict[str, Any], docs: Path = DOCS) -> list[Path]:
    """Renew the page's table and the plots; gives what was written. Raises ValueError for a page without marks."""
    page = docs / PAGE
    drawn = {f"benchmarks-{name}.svg": text for name, text in plots(report).items()}
    written = {page: with_table(page.read_text(), report, drawn)}
    written |= {docs / name: text for name, text in drawn.items()}
    for path, text in written.items():
        path.write_text(text)
    return list(written)


def with_table(page: str, report: dict[str, Any], drawn: Iterable[str] = ()) -> str:
    """The page with what is between its marks replaced: by the table, and by these plots."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"docs/{PAGE} must have each of these lines once: {BEGIN} and {END}")
    before, _, rest = page.partition(BEGIN)
    images = "".join(f"\n![{name}]({name})\n" for name in drawn)
    return f"{before}{BEGIN}\n{table(report)}\n{images}{END}{rest.partition(END)[2]}"


def table(report: dict[str, Any]) -> str:
    """Every promise, what was measured, and what it was measured with."""
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


def plots(report: dict[str, Any]) -> dict[str, str]:
    """The SVG files by name, for the bars that the report has."""
    bars = {bar["name"]: bar for bar in report["bars"]}
    found = {}
    if rows := list(_cpu_rows(bars, SERVERS)):
        found["servers"] = _bars("CPU per dispatch, header edit, 64 streams", rows, _PARTS, "CPU us per dispatch")
    if rows := list(_cpu_rows(bars, GROWTH)):
        found["growth"] = _bars("CPU per dispatch as things become many", rows, _PARTS, "CPU us per dispatch")
    if TRANSPORTS in bars:
        times: list[Row] = [(point["label"], (point["p50_us"],)) for point in bars[TRANSPORTS]["points"]]
        found["transports"] = _bars("round trip of 900 bytes", times, (("round trip", 0),), "us per round trip")
    return found


def _cpu_rows(bars: dict[str, Any], names: Iterable[str]) -> Iterable[Row]:
    for name in names:
        for point in bars.get(name, {"points": ()})["points"]:
            yield point["label"], (point["broker_us"], point["workers_us"])


def _bars(label: str, rows: list[Row], parts: tuple[tuple[str, int], ...], axis: str) -> str:
    highest = max(sum(values) for _, values in rows)
    chart = svg.stacked_bars(label, rows, parts, svg.linear_axis(axis, highest))
    head, _, rest = chart.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    return (
        f'{head}>\n<style>\n{STYLE.read_text()}</style>\n<rect width="100%" height="100%" fill="var(--card)"/>{rest}\n'
    )


def main() -> None:
    """Entry point."""
    for path in write(json.loads(Path(sys.argv[1]).read_text())):
        print(path)


if __name__ == "__main__":
    main()
