"""Whatever bundles send as metrics, `/metrics` is valid in both formats and has every value once."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families

from tykpy.broker.observe.prometheus import _PluginCollector
from tykpy.broker.pool.plugin_metrics import PluginMetrics
from tykpy.ipc.plugin_metrics import MAX_HELP, MAX_VALUE

NAMES = st.builds(
    str.__add__,
    st.sampled_from(["a", "b", "tykpy_dispatch", "process_cpu", "python_info"]),
    st.sampled_from(["", "_total", "_bucket", "_sum", "_count", "_created", "_info", "_gsum", "_seconds_total"]),
)
"""Few, so that bundles choose the same ones, and such as look like the samples of another metric."""
TEXTS = st.text(max_size=20) | st.sampled_from(['"} 1\n# EOF\na 2', "\\", "\\n", "é\r", "\u2028", " ", "x" * 128])
NUMBERS = st.floats() | st.integers(0, 9).map(float)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """Return a message of a worker, as its decoder lets it through."""
    kind = draw(st.sampled_from(["counter", "gauge", "histogram", "summary"]))
    buckets = sorted(draw(st.sets(NUMBERS, max_size=3))) if kind == "histogram" else []
    labels = draw(st.lists(st.sampled_from(["x", "y", "le", "bundle", "quantile"]), max_size=2))
    numbers = len(buckets) + 2 if kind == "histogram" else 1
    one = st.tuples(
        st.lists(TEXTS, min_size=len(labels), max_size=len(labels)).map(
            lambda texts: tuple(t[:MAX_VALUE] for t in texts)
        ),
        st.lists(NUMBERS, min_size=numbers, max_size=numbers).map(tuple),
    )
    return {
        "bundle": draw(st.sampled_from(["one", "two"]) | TEXTS.filter(lambda text: "\0" not in text)),
        "kind": kind,
        "name": draw(NAMES | TEXTS),
        "help": draw(TEXTS)[:MAX_HELP],
        "labels": tuple(labels),
        "buckets": tuple(buckets),
        "aggregate": draw(st.sampled_from(["sum", "max", "min", "last"])) if kind == "gauge" else "",
        "series": draw(st.lists(one, max_size=3)),
    }


@given(st.lists(st.tuples(st.integers(1, 3), messages()), max_size=12), st.integers(1, 3))
def test_the_page_is_always_valid(sent: list[tuple[int, dict[str, Any]]], ended: int) -> None:
    metrics = PluginMetrics()
    for worker, message in sent:
        metrics.receive(worker, message)
    metrics.note_end(ended, {"one"})
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_PluginCollector(metrics))

    classic = list(text_string_to_metric_families(generate_latest(registry).decode()))
    openmetrics: str = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    modern = list(parser.text_string_to_metric_families(openmetrics))  # type: ignore[no-untyped-call]

    expected = {(family.bundle, values) for family in metrics.families for values, _ in family.series}
    for families in (classic, modern):
        assert len({family.name for family in families}) == len(families)
        samples = [(sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples]
        assert len(set(samples)) == len(samples)
        own = [name for name, _ in samples if name.startswith(("tykpy_", "process_"))]
        assert set(own) <= {"tykpy_plugin_metrics_dropped_total"}
        bundles = {dict(labels)["bundle"] for name, labels in samples if name not in own}
        assert bundles == {bundle for bundle, _ in expected}
