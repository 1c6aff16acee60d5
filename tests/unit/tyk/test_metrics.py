"""Plugin metrics within one process: names, labels, limits, threads, and how long things took."""

import asyncio
import itertools
import sys
import threading
from collections import deque
from typing import Any

import pytest

from tyk import metrics
from tyk.errors import MetricError
from tyk.metrics import BundleMetrics, Registry
from tykpy.ipc import plugin_metrics as limits


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Start without metrics."""
    fresh = Registry()
    monkeypatch.setattr(metrics, "registry", fresh)
    return fresh


def samples() -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the values by name and label values."""
    return {(one.name, tuple(one.labels.values())): one.value for one in metrics.collect()}


def test_counters_add_up() -> None:
    logins = metrics.counter("logins_total", "Logins.", ["result"])
    logins.labels("ok").inc()
    logins.labels(result="ok").inc(2.5)
    logins.labels("refused").inc(0)
    assert samples() == {("logins_total", ("ok",)): 3.5, ("logins_total", ("refused",)): 0}


def test_gauges_go_up_and_down() -> None:
    level = metrics.gauge("level")
    assert samples() == {("level", ()): 0}
    level.set(10)
    level.inc()
    level.dec(4)
    assert samples() == {("level", ()): 7}


def test_histograms_count_by_size() -> None:
    sizes = metrics.histogram("sizes", buckets=[1, 10, float("inf")])
    for value in (0.5, 1, 7, 100):
        sizes.observe(value)
    assert [(one.name, one.labels, one.value) for one in metrics.collect()] == [
        ("sizes_bucket", {"le": "1.0"}, 2),
        ("sizes_bucket", {"le": "10.0"}, 3),
        ("sizes_bucket", {"le": "+Inf"}, 4),
        ("sizes_sum", {}, 108.5),
        ("sizes_count", {}, 4),
    ]


def test_blocks_and_functions_are_timed() -> None:
    times = metrics.histogram("times", buckets=[3600])

    @times.time()
    def plain(number: int) -> int:
        return number + 1

    @times.time()
    async def asynchronous(number: int) -> int:
        await asyncio.sleep(0.001)
        return number + 2

    with times.time():
        assert plain(1) == 2
    assert plain.__name__ == "plain"
    assert asyncio.iscoroutinefunction(asynchronous)
    assert asyncio.run(asynchronous(1)) == 3
    with pytest.raises(ZeroDivisionError), times.time():
        _ = 1 / 0
    values = samples()
    assert values["times_count", ()] == 4
    assert values["times_sum", ()] >= 0.001


def test_a_name_is_one_metric() -> None:
    metrics.counter("logins", labels=["result"]).labels("ok").inc()
    again = metrics.counter("logins_total", "Another text.", ["result"])
    again.labels("ok").inc()
    assert samples() == {("logins_total", ("ok",)): 2}


@pytest.mark.parametrize(
    "make",
    [
        lambda: metrics.gauge("logins"),
        lambda: metrics.counter("logins"),
        lambda: metrics.gauge("logins_total"),
        lambda: metrics.histogram("logins", labels=["result"]),
    ],
)
def test_two_metrics_of_one_name_are_refused(make: Any) -> None:
    metrics.counter("logins", labels=["result"])
    with pytest.raises(MetricError, match=r"there is a counter 'logins' with labels \('result',\) already.* another"):
        make()


def test_samples_of_two_metrics_never_share_names() -> None:
    metrics.histogram("times")
    with pytest.raises(MetricError, match="histogram 'times'"):
        metrics.gauge("times_count")
    metrics.histogram("other", buckets=[1])
    with pytest.raises(MetricError, match=r"buckets \(1.0,\) already"):
        metrics.histogram("other", buckets=[2])


@pytest.mark.parametrize("name", ["", "9a", "a-b", "a b", "ä", "a\n", "tykpy_x", "process_cpu", "tykpy", "a" * 129, 9])
@pytest.mark.parametrize("make", [metrics.gauge, metrics.histogram, metrics.counter])
def test_names_are_checked(name: Any, make: Any) -> None:
    with pytest.raises(MetricError):
        make(name)


@pytest.mark.parametrize("labels", [["le"], ["bundle"], ["__a"], ["a-b"], ["a", "a"], ["9"], "result", ["a"] * 11])
def test_labels_are_checked(labels: Any) -> None:
    with pytest.raises(MetricError, match="counter 'a'"):
        metrics.counter("a", labels=labels)


@pytest.mark.parametrize("buckets", [[], [2, 1], [1, 1], [float("nan")], [float("-inf"), 1], range(51), [float("inf")]])
def test_buckets_are_checked(buckets: Any) -> None:
    with pytest.raises(MetricError, match="ascending numbers"):
        metrics.histogram("a", buckets=buckets)


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf")])
def test_impossible_amounts_are_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="counter 'a'"):
        metrics.counter("a").inc(amount)
    if amount != -1:
        with pytest.raises(ValueError, match="finite"):
            metrics.histogram("b").observe(amount)


def test_label_values_must_be_complete() -> None:
    one = metrics.counter("a", labels=["x", "y"])
    for call in (
        lambda: one.labels("1"),
        lambda: one.labels(x="1"),
        lambda: one.labels("1", y="2"),
        lambda: one.labels(x="1", z="2"),
        lambda: one.labels("1", "2").labels("1", "2"),
        lambda: metrics.counter("b").labels("1"),
        one.inc,
        lambda: metrics.gauge("d", labels=["x"]).set(1),
        lambda: metrics.gauge("d", labels=["x"]).dec(),
    ):
        with pytest.raises(MetricError):
            call()
    with pytest.raises(MetricError, match="aggregate is one of sum, max, min, last"):
        metrics.gauge("c", aggregate="mean")  # type: ignore[arg-type]


def test_label_values_become_plain_text() -> None:
    class Text(str):
        """A plugin's own, which has no hash."""

        __hash__ = None  # type: ignore[assignment]

    one = metrics.counter("a", labels=["x"])
    for value in (Text("1"), 1, None, "new\nline\0\ud800", "x" * 200):
        one.labels(value).inc()
    found = [values[0] for _, values in samples()]
    assert found == ["1", "None", "new\\nline\\x00\\ud800", "x" * 125 + "..."]
    assert {type(value) for value in found} == {str}
    assert samples()["a_total", ("1",)] == 2


def test_series_beyond_the_limit_are_dropped(registry: Registry) -> None:
    one = metrics.counter("a", labels=["x"])
    for number in range(metrics.MAX_SERIES + 5):
        one.labels(number).inc()
    metrics.counter("b").inc()
    assert len(samples()) == metrics.MAX_SERIES
    assert registry.current().dropped == {"series": 6}
    one.labels(3).inc()
    assert samples()["a_total", ("3",)] == 2


def test_metrics_beyond_the_limit_are_dropped(registry: Registry) -> None:
    for number in range(metrics.MAX_METRICS + 5):
        metrics.counter(f"a{number}").inc()
    assert len(samples()) == metrics.MAX_METRICS
    assert registry.current().dropped["metrics"] == 5


def test_bundles_have_metrics_of_their_own(registry: Registry) -> None:
    for registry.owner, value in ((lambda: "one", 1), (lambda: "two", 2)):
        metrics.gauge("level").set(value)
    assert samples() == {("level", ()): 2}
    assert sorted(registry.bundles) == ["one", "two"]


def test_changes_are_reported_once() -> None:
    logins, level = metrics.counter("logins", labels=["x"]), metrics.gauge("level")
    sizes = metrics.histogram("sizes", buckets=[1])

    def changes() -> dict[str, list[Any]]:
        return {one.definition.name: one.series for one in metrics.registry.current().changes()}

    # Those without labels are sent before they are used.
    assert changes() == {"level": [((), [0])], "sizes": [((), [0, 0, 0])]}
    logins.labels("1").inc(2)
    level.set(3)
    sizes.observe(4)
    assert changes() == {"logins": [(("1",), [2])], "level": [((), [3])], "sizes": [((), [4, 0, 1])]}
    assert changes() == {}
    logins.labels("1").inc(2)
    logins.labels("2").inc(1)
    level.inc()
    sizes.observe(0.5)
    assert changes() == {"logins": [(("1",), [2]), (("2",), [1])], "level": [((), [4])], "sizes": [((), [0.5, 1, 0])]}


def test_threads_lose_nothing() -> None:
    """All add to the same series, while another thread reports its changes."""
    logins, times = metrics.counter("logins"), metrics.histogram("times", buckets=[1])
    level = metrics.gauge("level")
    threads, calls = 4, 5_000
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        for _ in range(calls):
            logins.inc()
            times.observe(2)
            level.inc(2)
            level.dec()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    reported = dict.fromkeys(("logins", "times", "level"), 0.0)

    def report(bundle: BundleMetrics) -> None:
        for change in bundle.changes():
            for _, numbers in change.series:
                name = change.definition.name
                reported[name] = numbers[-1] + (reported[name] if name != "level" else 0)

    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            report(metrics.registry.current())
    finally:
        sys.setswitchinterval(before)
        for worker in workers:
            worker.join()
    report(metrics.registry.current())
    assert reported == dict.fromkeys(reported, threads * calls)
    values = samples()
    assert {values["logins_total", ()], values["times_count", ()], values["level", ()]} == {threads * calls}
    queues: list[deque[Any]] = [logins._updates, times._updates, level._state[1]]
    assert max(len(queue) for queue in queues) <= metrics._QUEUED + threads


def test_the_broker_has_the_same_limits() -> None:
    for name in ("MAX_METRICS", "MAX_SERIES", "MAX_NAME", "MAX_HELP", "MAX_LABELS", "MAX_VALUE", "MAX_BUCKETS"):
        assert getattr(metrics, name) == getattr(limits, name)


def test_a_forgotten_series_makes_room_and_works_on() -> None:
    bundle = metrics.registry.current()
    calls, level = metrics.counter("calls", labels=["client"]), metrics.gauge("level")
    kept = calls.labels("kept")
    for number in range(metrics.MAX_SERIES):
        calls.labels(number).inc()
    level.set(3)
    assert bundle.dropped
    metrics.registry.forget()
    assert samples() == {("level", ()): 0}
    assert not bundle.dropped
    kept.inc()
    assert samples() == {("level", ()): 0, ("calls_total", ("kept",)): 1}
    assert calls.labels("kept") is kept
    for number in range(metrics.MAX_SERIES - 2):
        calls.labels(number).inc()
    assert not bundle.dropped


def test_endless_buckets_are_refused() -> None:
    with pytest.raises(MetricError, match="buckets are 1 to 50"):
        metrics.histogram("endless", buckets=itertools.count())
