"""`/metrics`: a snapshot in the formats of Prometheus and OpenMetrics. docs/metrics.md lists all of it."""

import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.samples import Exemplar

from tykpy.broker.observe.http import HttpRequest, HttpResponse
from tykpy.broker.observe.listener import Snapshots
from tykpy.broker.observe.plugin_families import plugin_families
from tykpy.broker.pool.plugin_metrics import PluginMetrics
from tykpy.telemetry.buckets import BOUNDS_NS
from tykpy.telemetry.processes import usage_of
from tykpy.telemetry.snapshot import ExampleTrace, HookSeries, Snapshot

_BOUNDS: Final = [*(str(bound / 1e9) for bound in BOUNDS_NS), "+Inf"]
_HOOK_LABELS: Final = ("bundle", "hook", "type", "code")
_WORKER_STATES: Final = ("starting", "standby", "ready", "leaving")
_SAMPLE_AGE: Final = "tykpy_snapshot_age_seconds"

Samples = Iterable[tuple[Sequence[str], float]]
"""Values with those of their labels."""


class MetricsPage:
    """The handler of `/metrics`."""

    def __init__(self, snapshots: Snapshots, plugins: PluginMetrics) -> None:
        self._snapshots = snapshots
        self._plugins = plugins

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Return all metrics, in OpenMetrics if the request accepts it."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_SnapshotCollector(await self._snapshots.fresh()))
        ProcessCollector(registry=registry)
        registry.register(_PluginCollector(self._plugins))
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return HttpResponse(encode(registry), content_type)


class _SnapshotCollector:
    """Offers one snapshot to prometheus_client's registry."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield every metric but those of the process."""
        one = self._snapshot
        yield from _of_hooks(one.series)
        yield from _of_load(one)
        yield from _of_workers(one)
        yield from _of_connections(one)
        yield from _of_bundles(one)
        yield from _of_telemetry(one)


class _PluginCollector:
    """Offers the metrics of plugins to prometheus_client's registry, as they are now."""

    def __init__(self, plugins: PluginMetrics) -> None:
        self._plugins = plugins

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all bundles, and what was dropped of them."""
        yield _counter(
            "tykpy_plugin_metrics_dropped",
            "Updates of plugins' metrics that were dropped, by bundle and reason.",
            ["bundle", "reason"],
            list(self._plugins.dropped.items()),
        )
        yield from plugin_families(self._plugins.families)


def _of_hooks(series: Sequence[HookSeries]) -> Iterator[Metric]:
    dispatch = HistogramMetricFamily(
        "tykpy_dispatch_duration_seconds", "Time from taking a dispatch to its outcome.", labels=_HOOK_LABELS
    )
    wait = HistogramMetricFamily(
        "tykpy_queue_wait_seconds",
        "Time of a dispatch without its hook: in the queue, in the worker's ring, and in tykpy itself.",
        labels=_HOOK_LABELS,
    )
    hook = HistogramMetricFamily(
        "tykpy_hook_duration_seconds", "Time of hooks, as workers measured it.", labels=_HOOK_LABELS
    )
    for one in series:
        labels = (one.bundle, one.hook, one.hook_type, one.code)
        dispatch.add_metric(labels, _with_traces(_buckets(one.dispatch_counts), one.traces), one.dispatch_ns / 1e9)
        wait.add_metric(labels, _buckets(one.wait_counts), one.wait_ns / 1e9)
        if any(one.hook_counts):
            hook.add_metric(labels, _buckets(one.hook_counts), one.hook_ns / 1e9)
    yield from (dispatch, wait, hook)


def _of_load(one: Snapshot) -> Iterator[Metric]:
    yield _counter(
        "tykpy_dispatches_rejected", "Dispatches that were not run, by reason.", ["reason"], _by_name(one.rejected)
    )
    yield _gauge("tykpy_queue_depth", "Dispatches that wait for a worker.", one.waiting)
    yield _gauge(
        "tykpy_in_flight", "Dispatches that workers have and have not answered.", sum(w.in_flight for w in one.workers)
    )
    yield _gauge("tykpy_held_bytes", "Bytes of the dispatches that wait or are at a worker.", one.held_bytes)
    yield _gauge("tykpy_arriving_bytes", "Bytes of requests that are not complete yet.", one.arriving_bytes)


def _of_workers(one: Snapshot) -> Iterator[Metric]:
    states = [worker.state for worker in one.workers]
    yield _gauges(
        "tykpy_workers",
        "Worker processes by state.",
        ["state"],
        [([state], states.count(state)) for state in _WORKER_STATES],
    )
    yield _gauge("tykpy_workers_wanted", "Workers that there should be.", one.wanted)
    yield _counter(
        "tykpy_worker_restarts",
        "Workers that were replaced, by reason.",
        ["reason"],
        _by_name({**dict.fromkeys(("crash", "hang", "oom", "recycle", "reload"), 0), **one.restarts}),
    )
    slots = [([str(slot.slot)], slot) for slot in one.slots]
    yield _counter(
        "tykpy_worker_busy_seconds",
        "Time in which a worker had at least one dispatch.",
        ["worker"],
        [(labels, slot.busy_ns / 1e9) for labels, slot in slots],
    )
    yield _counter(
        "tykpy_worker_dispatches",
        "Dispatches that a worker has answered.",
        ["worker"],
        [(labels, slot.handled) for labels, slot in slots],
    )
    cpu: dict[str, float] = {}
    memory: dict[str, float] = {}
    for worker in one.workers:
        usage = usage_of(worker.pid)
        if usage is not None:
            slot = str(worker.slot)
            cpu[slot] = cpu.get(slot, 0.0) + usage.cpu_s
            memory[slot] = memory.get(slot, 0.0) + usage.rss
    yield _counter("tykpy_worker_cpu_seconds", "CPU time of a worker's process.", ["worker"], _by_name(cpu))
    yield _gauges(
        "tykpy_worker_resident_memory_bytes", "Memory of a worker's process, with shared pages.", ["worker"],
        _by_name(memory),
    )  # fmt: skip


def _of_connections(one: Snapshot) -> Iterator[Metric]:
    yield _gauges("tykpy_connections", "Open connections of gateways.", ["protocol"], _by_name(one.connections))
    yield _gauge("tykpy_http2_streams", "Open HTTP/2 streams.", one.streams)
    yield _counter(
        "tykpy_http2_errors",
        "Faults of peers: HTTP/2 connections that were ended and streams that were reset, by error code.",
        ["code"],
        _by_name(one.http2_errors),
    )


def _of_bundles(one: Snapshot) -> Iterator[Metric]:
    yield _counter("tykpy_reload", "Reloads by result.", ["result"], _by_name(one.reloads))
    yield _gauges(
        "tykpy_bundle_info",
        "A bundle in the folder. Its state is loaded, or why it is not served.",
        ["bundle", "version", "state"],
        [
            *(
                ([b.name, b.version, b.state if b.state != "loaded" or not b.faulty else "faulty"], 1)
                for b in one.bundles
            ),
            *(([name, "", "not loaded"], 1) for name in one.unloaded),
        ],
    )
    yield _gauges(
        "tykpy_breaker_open",
        "1 for a hook that is not run because it killed workers.",
        ["bundle", "hook"],
        [([breaker.bundle, breaker.hook], 1) for breaker in one.breakers],
    )


def _of_telemetry(one: Snapshot) -> Iterator[Metric]:
    yield _gauge("tykpy_store_up", "0 if the last use of the storage of plugins failed.", one.store.state != "fails")
    times = HistogramMetricFamily(
        "tykpy_store_operation_seconds", "Time of store_data and get_data, failed ones too.", labels=["operation"]
    )
    for operation, (total_ns, *counts) in one.store.operations.items():
        times.add_metric([operation], _buckets(counts), total_ns / 1e9)
    yield times
    yield _counter("tykpy_store_errors", "Failed uses of the storage.", [], [([], one.store.errors)])
    results = {(sink, result): count for sink, counts in one.events.items() for result, count in counts.items()}
    now = ("waiting", "under_way")
    yield _counter(
        "tykpy_events",
        "Events that plugins triggered, by where they go and what became of them.",
        ["sink", "result"],
        [(labels, count) for labels, count in results.items() if labels[1] not in now],
    )
    yield _gauges(
        "tykpy_events_waiting",
        "Events that are not delivered yet.",
        ["sink"],
        [([sink], count) for (sink, result), count in results.items() if result in now],
    )
    yield _counter("tykpy_log_dropped", "Records of the log that were lost.", [], [([], one.log_dropped)])
    yield _counter(
        "tykpy_metrics_dropped_series",
        'Series that are counted in hook "other", because there are too many.',
        [],
        [([], one.dropped_series)],
    )
    yield _gauge(_SAMPLE_AGE, "Age of these numbers: large if the broker's event loop does not turn.", one.age)
    build = {"version": one.version, "python": platform.python_version()}
    yield InfoMetricFamily("tykpy_build", "The running program.", build)


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    total = 0
    return [(bound, total := total + count) for bound, count in zip(_BOUNDS, counts, strict=True)]


def _with_traces(buckets: Sequence[tuple[str, float]], traces: dict[int, ExampleTrace]) -> Sequence[Any]:
    """Return the buckets with exemplars, which OpenMetrics shows."""
    if not traces:
        return buckets
    exemplars = {
        index: Exemplar({"trace_id": one.trace_id}, one.dispatch_ns / 1e9, one.ended) for index, one in traces.items()
    }
    return [(*bucket, exemplars.get(index)) for index, bucket in enumerate(buckets)]


def _by_name(values: dict[str, int] | dict[str, float]) -> Samples:
    return [([name], value) for name, value in values.items()]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _gauges(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in {tuple(one): number for one, number in samples}.items():
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
