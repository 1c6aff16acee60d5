"""What workers send about plugins' metrics: sums, gauges, bounds, and nonsense."""

from typing import Any, Final

import pytest

from tykpy.broker.pool import plugin_metrics
from tykpy.broker.pool.plugin_metrics import PluginMetrics
from tykpy.ipc.plugin_metrics import MAX_METRICS, MAX_SERIES
from tykpy.telemetry.snapshot import OTHER

Series = list[tuple[tuple[str, ...], tuple[float, ...]]]
FIRST, SECOND, THIRD = 1, 2, 3
"""Generations of workers."""
SERVED: Final = {"mine"}


def counter(*series: tuple[str, float], name: str = "logins", bundle: str = "mine") -> dict[str, Any]:
    """Return a message about a counter with one label."""
    return message("counter", [((label,), (value,)) for label, value in series], name, bundle)


def gauge(value: float, aggregate: str = "sum", name: str = "level", bundle: str = "mine") -> dict[str, Any]:
    """Return a message about a gauge without labels."""
    return {**message("gauge", [((), (value,))], name, bundle), "labels": (), "aggregate": aggregate}


def message(kind: str, series: Series, name: str = "logins", bundle: str = "mine") -> dict[str, Any]:
    return {
        "bundle": bundle,
        "kind": kind,
        "name": name,
        "help": "Text.",
        "labels": ("label",),
        "buckets": (),
        "aggregate": "",
        "series": series,
    }


def histogram(*numbers: float) -> dict[str, Any]:
    """Return a message about a histogram with two buckets."""
    return {**message("histogram", [((), numbers)], "times"), "labels": (), "buckets": (1.0,)}


def values(metrics: PluginMetrics) -> dict[str, Series]:
    """Return all series by bundle and name."""
    return {f"{one.bundle} {one.definition.name}": one.series for one in metrics.families}


def test_counters_of_all_workers_add_up_and_stay() -> None:
    metrics = PluginMetrics()
    metrics.receive(FIRST, counter(("ok", 1), ("bad", 2)))
    metrics.receive(SECOND, counter(("ok", 10)))
    metrics.receive(FIRST, counter(("ok", 100)))
    metrics.receive(FIRST, histogram(5, 1, 2))
    metrics.receive(SECOND, histogram(-1, 0, 3))
    metrics.note_end(FIRST, SERVED)
    metrics.note_end(SECOND, SERVED)
    assert values(metrics) == {"mine logins": [(("ok",), (111,)), (("bad",), (2,))], "mine times": [((), (4, 1, 5))]}
    assert not metrics.dropped


@pytest.mark.parametrize(("aggregate", "expected"), [("sum", 10), ("max", 7), ("min", 1), ("last", 2)])
def test_gauges_aggregate_living_workers(aggregate: str, expected: float) -> None:
    metrics = PluginMetrics()
    for worker, value in ((FIRST, 5), (SECOND, 7), (THIRD, 1), (FIRST, 2)):
        metrics.receive(worker, gauge(value, aggregate))
    assert values(metrics) == {"mine level": [((), (expected,))]}
    for worker in (FIRST, THIRD):
        metrics.note_end(worker, SERVED)
    assert values(metrics) == {"mine level": [((), (7,))]}
    metrics.note_end(SECOND, SERVED)
    assert values(metrics) == {}


def test_a_bundle_goes_with_its_last_worker() -> None:
    metrics = PluginMetrics()
    metrics.receive(FIRST, counter(("ok", 1), bundle="gone"))
    metrics.receive(SECOND, counter(("ok", 1), bundle="gone/part"))
    metrics.drop("gone", "series", 1)
    metrics.note_end(SECOND, SERVED)
    assert list(values(metrics)) == ["gone logins"]
    metrics.note_end(FIRST, SERVED)
    assert values(metrics) == {}
    assert metrics.dropped == {}


def test_the_newest_worker_defines_a_metric() -> None:
    metrics = PluginMetrics()
    metrics.receive(FIRST, counter(("ok", 5)))
    metrics.receive(SECOND, gauge(1, name="logins_total"))
    assert values(metrics) == {"mine logins_total": [((), (1,))]}
    metrics.receive(FIRST, counter(("ok", 5)))
    assert values(metrics) == {"mine logins_total": [((), (1,))]}
    assert metrics.dropped == {("mine", "redefined"): 1}


def test_series_are_bounded_per_bundle() -> None:
    metrics = PluginMetrics()
    metrics.receive(FIRST, counter(("a", 1), bundle="quiet"))
    for at in range(0, MAX_SERIES + 50, 50):
        metrics.receive(FIRST, counter(*((str(number), 1) for number in range(at, at + 50))))
    metrics.receive(FIRST, counter(("0", 1), ("b", 1)))
    metrics.receive(FIRST, counter(("b", 1), bundle="quiet"))
    assert len(values(metrics)["mine logins"]) == MAX_SERIES
    assert values(metrics)["mine logins"][0] == (("0",), (2,))
    assert len(values(metrics)["quiet logins"]) == 2
    assert metrics.dropped == {("mine", "series"): 51}


def test_all_series_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_metrics, "MAX_ALL_SERIES", 10)
    metrics = PluginMetrics()
    for bundle in range(12):
        metrics.receive(FIRST, counter(("a", 1), bundle=str(bundle)))
    assert len(values(metrics)) == 10
    assert metrics.dropped == {("10", "series"): 1, ("11", "series"): 1}


def test_metrics_are_bounded_per_bundle() -> None:
    metrics = PluginMetrics()
    for number in range(MAX_METRICS + 2):
        metrics.receive(FIRST, counter(("a", 1), name=f"a{number}"))
    assert len(values(metrics)) == MAX_METRICS
    assert metrics.dropped == {("mine", "metrics"): 2}
    # What only ended workers had makes room.
    metrics.receive(SECOND, counter(("a", 1), name="a0"))
    metrics.note_end(FIRST, SERVED)
    assert len(values(metrics)) == MAX_METRICS
    metrics.receive(SECOND, counter(("a", 1), name="new"))
    assert values(metrics) == {"mine a0": [(("a",), (2,))], "mine new": [(("a",), (1,))]}


def test_bundles_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_metrics, "MAX_BUNDLES", 3)
    metrics = PluginMetrics()
    for bundle in range(5):
        metrics.receive(FIRST, counter(("a", 1), bundle=f"b{bundle}"))
        metrics.drop(f"b{bundle}", "series", 1)
    assert len(values(metrics)) == 3
    assert sum(metrics.dropped.values()) == 7
    assert len({bundle for bundle, _ in metrics.dropped} - {OTHER}) <= 3


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "summary"},
        {"kind": "gauge"},
        {"kind": "histogram"},
        {"name": ""},
        {"name": "a b"},
        {"name": "tykpy_in_flight"},
        {"name": "process_cpu_seconds"},
        {"labels": ("bundle",)},
        {"labels": ("le",)},
        {"labels": ("__name__",)},
        {"labels": ("a b",)},
        {"labels": ("a", "a")},
        {"labels": ()},
        {"buckets": (1.0,)},
        {"aggregate": "sum"},
        {"series": [((), (1.0,))]},
        {"series": [(("a",), ())]},
        {"series": [(("a",), (-1.0,))]},
        {"series": [(("a",), (float("nan"),))]},
        {"series": [(("a",), (float("inf"),))]},
        {"series": [(("\0",), (1.0,))]},
    ],
)
def test_nonsense_from_a_worker_is_dropped(change: dict[str, Any]) -> None:
    metrics = PluginMetrics()
    metrics.receive(FIRST, {**counter(("a", 1)), **change})
    assert values(metrics) == {}
    assert metrics.dropped == {("mine", "malformed"): 1}


@pytest.mark.parametrize("buckets", [(2.0, 1.0), (1.0, 1.0), (float("nan"),), (float("inf"),)])
def test_impossible_buckets_are_dropped(buckets: tuple[float, ...]) -> None:
    metrics = PluginMetrics()
    metrics.receive(FIRST, {**histogram(1, *[1] * (len(buckets) + 1)), "buckets": buckets})
    assert metrics.dropped == {("mine", "malformed"): 1}


def test_reasons_are_ours() -> None:
    metrics = PluginMetrics()
    metrics.drop("mine", "a reason that a worker made up", 3)
    assert metrics.dropped == {("mine", "malformed"): 3}
