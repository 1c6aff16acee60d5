"""Expose the metrics of plugins by the names that they chose, with the label `bundle`.

Bundles may choose the same name. One family of Prometheus has one type: where the types differ, or the names of their
samples would be mixed up, none is given, and every bundle keeps its samples under their usual names.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from tykpy.broker.pool.plugin_metrics import MetricDefinition, Numbers, PluginFamily

BUNDLE: Final = "bundle"
_UNTYPED: Final = "unknown"


def plugin_families(families: Iterable[PluginFamily]) -> Iterator[Metric]:
    """Yield one metric for each name, with the samples of all bundles; the first bundle's help text counts."""
    typed: dict[tuple[str, str], Metric] = {}
    names: dict[tuple[str, str], list[str]] = {}
    for family in families:
        definition = family.definition
        key = definition.name, definition.kind
        metric = typed.setdefault(key, Metric(definition.name, family.help, definition.kind))
        names[key] = definition.sample_names
        for values, numbers in family.series:
            labels = {BUNDLE: family.bundle, **dict(zip(definition.labels, values, strict=True))}
            metric.samples += _samples(definition, labels, numbers)
    owners = Counter(name for claimed in names.values() for name in claimed)
    untyped: dict[str, Metric] = {}
    for key, metric in typed.items():
        if all(owners[name] == 1 for name in names[key]):
            yield metric
            continue
        for sample in metric.samples:
            untyped.setdefault(sample.name, Metric(sample.name, metric.documentation, _UNTYPED)).samples.append(sample)
    yield from untyped.values()


def _samples(definition: MetricDefinition, labels: dict[str, str], numbers: Numbers) -> Iterator[Sample]:
    name, buckets = definition.name, definition.buckets
    if definition.kind == "counter":
        yield Sample(f"{name}_total", labels, numbers[0])
    elif definition.kind == "gauge":
        yield Sample(name, labels, numbers[0])
    else:
        total, *counts = numbers
        sums = list(accumulate(counts))
        for bound, count in zip((*buckets, math.inf), sums, strict=True):
            yield Sample(f"{name}_bucket", {**labels, "le": "+Inf" if bound == math.inf else str(bound)}, count)
        # OpenMetrics has no sum that may fall, and no count without a sum.
        if buckets[0] >= 0 and total >= 0:
            yield Sample(f"{name}_sum", labels, total)
            yield Sample(f"{name}_count", labels, sums[-1])
