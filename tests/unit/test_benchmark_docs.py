"""The docs that are generated from a benchmark's JSON."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.bars.bar import Bar, BarOutcome, findings
from benchmarks.rounds import Pace, PlotPoint
from scripts.benchmark_docs import BEGIN, DOCS, END, PAGE, write

PAGE_TEXT = f"# Benchmarks\n\nbefore\n{BEGIN}\nold\n{END}\nafter\n"


def report() -> dict[str, Any]:
    points = (PlotPoint("grpcio", 7e3, 9e3, 190.0, 0.0, 9.0), PlotPoint("tykpy", 5e4, 1e3, 13.0, 12.0, 9.0))
    outcomes = (
        BarOutcome(Bar("throughput", "requests/s", 8.0, True), (8.5,), "fast", points),
        BarOutcome(Bar("bundles", "CPU", 1.1, False), (1.2,), "grows", points),
        BarOutcome(Bar("ring", "round trip", 1.0, False), (0.9,), "", (PlotPoint("channel", p50_us=1.8),)),
    )
    return findings(Pace(), outcomes, {}).as_dict({"python": "3.11"}, "python -m benchmarks.bars")


def test_only_the_marked_table_is_replaced(tmp_path: Path) -> None:
    (tmp_path / PAGE).write_text(PAGE_TEXT)
    written = write(report(), tmp_path)
    text = (tmp_path / PAGE).read_text()
    assert text.startswith("# Benchmarks\n\nbefore\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| requests/s | at least 8.00x | 8.50x (8.50x to 8.50x) | yes | fast |" in text
    assert "| CPU | at most 1.10x | 1.20x (1.20x to 1.20x) | **no** | grows |" in text
    assert [path.name for path in written[1:]] == [
        "benchmarks-throughput.svg", "benchmarks-servers.svg", "benchmarks-growth.svg", "benchmarks-transports.svg",
    ]  # fmt: skip
    assert "![CPU time per dispatch in us, as things become many](benchmarks-growth.svg)" in text
    for path in written[1:]:
        root = ElementTree.fromstring(path.read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("aria-label") in [element.text for element in root.iter() if element.get("class") == "heading"]
    write(report(), tmp_path)
    assert (tmp_path / PAGE).read_text() == text


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / PAGE).write_text("# Benchmarks\n")
    with pytest.raises(ValueError, match="bars: begin"):
        write(report(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PAGE]


def test_the_real_page_has_its_marks() -> None:
    text = (DOCS / PAGE).read_text()
    assert text.index(BEGIN) < text.index(END)
