"""Ratios round by round, whether a promise is kept, and the tables of `benchmarks.bars`."""

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.bars import groups
from benchmarks.bars.bar import Bar, BarOutcome, findings
from benchmarks.bars.many import bundles, hooks
from benchmarks.rounds import Pace, PlotPoint, Reading, interleave, ratios

AT_LEAST = Bar("fast", "requests/s", 8.0, True)
AT_MOST = Bar("small", "memory", 15.0, False, "MiB")
MACHINE = {"load average": "0.1", "python": "3.11"}


class FakeCase:
    def __init__(self, name: str, log: list[str], reading: Callable[[int], Reading]) -> None:
        self.name = name
        self._log = log
        self._reading = reading
        self._number = 0

    def warm_up(self) -> None:
        self._log.append(f"warm {self.name}")

    def measure(self) -> Reading:
        self._log.append(self.name)
        self._number += 1
        return self._reading(self._number)


def test_the_median_of_the_rounds_counts() -> None:
    assert BarOutcome(AT_LEAST, (7.0, 8.1, 9.0), "").met
    assert not BarOutcome(AT_LEAST, (7.9, 7.0, 99.0), "").met
    assert BarOutcome(AT_MOST, (14.0, 15.0, 16.0), "").met
    assert not BarOutcome(AT_MOST, (15.1,), "").met
    assert BarOutcome(AT_LEAST, (7.0, 8.1, 9.0), "").measured == "8.10x (7.00x to 9.00x)"


def test_every_case_is_measured_in_every_round() -> None:
    log: list[str] = []
    cases = [
        FakeCase(name, log, lambda number, f=factor: Reading(f * number, 1, 2, 3, 4, 5))  # type: ignore[misc]
        for name, factor in (("a", 10), ("b", 2))
    ]
    found = interleave(cases, 3)
    assert log == ["warm a", "warm b", "a", "b", "b", "a", "a", "b"]
    assert ratios(found.each("a", "rate"), found.each("b", "rate")) == (5.0, 5.0, 5.0)
    assert found.median("a", "rate") == 20
    assert found.median("a", "cpu_us") == 5
    assert found.point("b") == PlotPoint("b", rate=4, p50_us=1, broker_us=2, workers_us=3, load_us=4, p99_us=5)


def test_the_report_has_a_row_per_bar_and_names_failures() -> None:
    outcomes = (
        BarOutcome(AT_LEAST, (7.0,), "70/s against 10/s"),
        BarOutcome(AT_MOST, (14.0,), "", (PlotPoint("x", rate=3.0),)),
    )
    made = findings(Pace(), outcomes, {"ring": "no iceoryx2"})
    text = made.markdown(MACHINE, "python -m benchmarks.bars")
    assert "| fast | requests/s | at least 8.00x | 7.00x (7.00x to 7.00x) | **no** | 70/s against 10/s |" in text
    assert "| small | memory | at most 15.0 MiB | 14.0 MiB (14.0 MiB to 14.0 MiB) | yes |" in text
    assert "Not measured: ring: no iceoryx2" in text
    stored = json.loads(json.dumps(made.as_dict(MACHINE, "python -m benchmarks.bars")))
    assert [bar["met"] for bar in stored["bars"]] == [False, True]
    assert stored["bars"][1]["points"] == [{"label": "x", "rate": 3.0}]


def test_names_of_bars_are_unique() -> None:
    assert len(groups.NAMES) == len(set(groups.NAMES))


def test_objects_for_many_hooks_have_equal_lengths(tmp_path: Path) -> None:
    files, by_bundle = bundles(tmp_path / "bundles", 11)
    file, by_hook = hooks(tmp_path / "hooks", 11)
    assert len(files) == len({item.spec["bundle_hash"] for item in by_bundle}) == 11
    assert len({item.hook_name for item in by_hook}) == file.read_text().count("@Post") == 11
    for items in (by_bundle, by_hook):
        assert len({item.ByteSize() for item in items}) == 1
