"""The HTML report: well-formed, self-contained, and with everything that was measured."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from tests.unit.bench.samples import MS, report, result, sample
from tykpy.bench.report import axis_of, cpu, html, latency, memory, short, stacked_bars, throughput
from tykpy.bench.results import BenchReport, CaseResult
from tykpy.bench.tables import compare

NASTY = "<script>alert('&')</script>"


def sweep() -> list[CaseResult]:
    cases = [(workers, size) for size in (None, 1024) for workers in (1, 2, 4)]
    latencies = [MS * number for number in range(1, 300)]
    return [
        result(sample(1000 * workers, latencies), sample(1050 * workers, latencies), workers=workers, body_size=size)
        for workers, size in cases
    ]


def page(of: BenchReport) -> ET.Element:
    text = html(of, compare(of, of))
    assert text.startswith("<!DOCTYPE html>")
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>"))


def test_the_page_is_well_formed_with_a_section_per_scenario() -> None:
    results = [*sweep(), result(scenario=NASTY)]
    root = page(report(*results))
    titles = [element.text for element in root.iter("h2")]
    assert titles == ["What changed", "All cases", "header", NASTY]
    assert len(list(root.iter("svg"))) == 8
    assert len(list(root.iter("table"))) == 2
    assert not list(root.iter("script"))


def test_the_page_loads_nothing_else() -> None:
    text = html(report(*sweep()))
    assert not re.search(r"https?:|//|@import|url\(|src=|href=", text.removeprefix("<!DOCTYPE html>"))
    tags = {element.tag for element in page(report(*sweep())).iter()}
    assert not tags & {"link", "img", "iframe", "script", "object", "embed", "use", "image"}


def test_every_case_is_in_the_table() -> None:
    text = html(report(*sweep()))
    for one in sweep():
        assert one.case.title in text
    assert "2,050" in text


def test_invisible_figures_are_left_out() -> None:
    unseen = sample(broker=None, workers=None, broker_mib=None, worker_mib=None)
    root = page(report(result(unseen, workers=0)))
    assert [element.text for element in root.iter("h3")] == ["Throughput", "Latency"]


def test_an_empty_case_draws_as_well() -> None:
    page(report(result(sample(0, ()))))


def test_throughput_has_the_ideal_line_for_each_variant() -> None:
    root = ET.fromstring(throughput(sweep()))
    assert len(root.findall(".//path[@class='ideal c0']")) == 1
    assert len(root.findall(".//path[@class='ideal c1']")) == 1
    assert len(root.findall(".//circle")) == 6
    assert "workers (dashed: ideal)" in [element.text for element in root.iter("text")]


def test_the_ideal_line_is_where_workers_add_up() -> None:
    # Throughput that doubles with the workers lies on it.
    root = ET.fromstring(throughput([one for one in sweep() if one.case.body_size is None]))
    (ideal,) = (path.attrib["d"] for path in root.iter("path") if "ideal" in path.attrib["class"])
    (real,) = (path.attrib["d"] for path in root.iter("path") if "line" in path.attrib["class"])
    assert ideal.split("L")[0] == real.split("L")[0]
    assert ideal.split("L")[-1] == real.split("L")[-1]


@pytest.mark.parametrize("counts", [(1, 2, 4, 8, 16, 32, 64), tuple(range(1, 17)), (1,), (0,), (64, 65)])
def test_numbers_of_workers_do_not_overlap(counts: tuple[int, ...]) -> None:
    cases = [result(sample(1000 * (count or 1)), workers=count) for count in counts]
    root = ET.fromstring(throughput(cases))
    base = max(float(line.attrib["y2"]) for line in root.findall(".//line[@class='tick']"))
    texts = [text for text in root.iter("text") if base < float(text.get("y", 0)) < base + 20 and text.text]
    places = [float(text.attrib["x"]) for text in texts]
    assert texts[0].text == (str(counts[0]) if counts[0] else "unknown")
    assert all(right - left > 20 for left, right in pairwise(places))
    assert len(root.findall(".//circle")) == len(counts)


def test_lines_left_out_for_lack_of_room_are_counted() -> None:
    cases = [result(workers=count, streams=streams) for streams in range(1, 13) for count in (1, 2)]
    root = ET.fromstring(throughput(cases))
    assert len([path for path in root.iter("path") if "line" in path.attrib["class"]]) == 6
    assert "workers (dashed: ideal) (6 of 12 cases)" in [text.text for text in root.iter("text")]


def test_a_fixed_rate_has_no_ideal_line() -> None:
    texts = [element.text for element in ET.fromstring(throughput([result(rate=100.0)])).iter("text")]
    assert "workers" in texts
    root = ET.fromstring(throughput([result(workers=count, rate=100.0) for count in (1, 2)]))
    assert not [path for path in root.iter("path") if "ideal" in path.attrib["class"]]


def test_a_latency_curve_never_falls() -> None:
    root = ET.fromstring(latency(sweep()[:1]))
    (path,) = root.iter("path")
    heights = [float(point.split()[1]) for point in path.attrib["d"][1:].split("L")]
    assert heights == sorted(heights, reverse=True), "y grows downwards in SVG"


@pytest.mark.parametrize("highest", [0.0, 0.003, 1.0, 7.3, 99.0, 100.0, 36_804.0, 2e9])
def test_linear_axes_begin_at_nothing_and_hold_all(highest: float) -> None:
    axis = axis_of("x", [highest], linear_up_to=30)
    assert axis.ticks[0][0] == 0
    assert axis.ticks[-1][0] >= highest * 0.999
    assert 2 <= len(axis.ticks) <= 7
    assert axis.share(axis.ticks[-1][0]) == 1


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.5, 3e6), (1000.0, 1000.0), (9.0, 11.0)])
def test_logarithmic_axes_hold_all(low: float, high: float) -> None:
    axis = axis_of("x", [0.0, low, high], linear_up_to=0)
    assert axis.log
    assert 0 == axis.share(0.0) <= axis.share(low) <= axis.share(high) <= 1
    assert len(axis.ticks) >= 2


def test_the_ring_is_taken_out_of_broker_and_workers() -> None:
    plain = result(sample(10_000, broker=0.5, workers=(0.2, 0.3), ring_us=(4.0, 6.0)))
    titles = [element.text for element in ET.fromstring(cpu([plain])).iter("title")]
    assert titles == ["2 workers, broker: 46 us", "2 workers, ring: 10 us", "2 workers, workers: 44 us"]


def test_figures_of_the_plots_are_the_medians_of_the_table() -> None:
    parts = [(10.0, (20.0, 20.0), (4.0, 6.0)), (30.0, (40.0, 40.0), (2.0, 2.0)), (20.0, (35.0, 5.0), (3.0, 5.0))]
    one = result(*(sample(1000, broker_mib=a, worker_mib=b, ring_us=c) for a, b, c in parts))
    titles = [element.text for element in ET.fromstring(memory([one])).iter("title")]
    assert titles == ["2 workers, broker: 20 MiB", "2 workers, workers: 40 MiB"]
    titles = [element.text for element in ET.fromstring(cpu([one])).iter("title")]
    assert titles[1] == "2 workers, ring: 8 us"


def test_a_plot_says_how_many_cases_it_shows() -> None:
    cases = [result(workers=count, streams=streams) for streams in range(5) for count in (1, 2)]
    texts = [element.text for element in ET.fromstring(latency(cases)).iter("text")]
    assert "percentile (5 of 10 cases)" in texts
    assert "1 worker, 4 streams" in texts
    assert "percentile" in [element.text for element in ET.fromstring(latency(cases[:8])).iter("text")]


def test_groups_of_bars_stand_apart() -> None:
    rows = [("a", [1.0]), ("b", [2.0])]
    root = ET.fromstring(stacked_bars("x", [rows, rows], (("all", 0),), short))
    bars = [float(bar.attrib["y"]) for bar in root.iter("rect")]
    within, between, again = (below - above for above, below in pairwise(bars))
    assert within == again < between
    assert float(root.attrib["viewBox"].split()[3]) > bars[-1]


def test_no_part_of_the_cpu_is_below_nothing() -> None:
    tiny = result(sample(10_000, broker=0.01, workers=(0.01,), ring_us=(4.0, 6.0)))
    widths = [float(bar.attrib["width"]) for bar in ET.fromstring(cpu([tiny])).iter("rect")]
    assert min(widths) >= 0
