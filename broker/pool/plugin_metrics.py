"""Add up what plugins count with `tyk.metrics`, over all workers and within bounds for each bundle.

Counters and histograms go on when workers end; a gauge has the values of the workers that live. The event loop writes.
Other threads may read at any time: they copy each dict in one step, and numbers are replaced and never changed.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from math import isfinite
from operator import add
from typing import Any, Final, NamedTuple

from tykpy.ipc.plugin_metrics import MAX_METRICS, MAX_SERIES
from tykpy.telemetry.rate_limited_log import QuietLog
from tykpy.telemetry.snapshot import OTHER

log = logging.getLogger("tykpy.metrics")

MAX_BUNDLES: Final = 1_000
MAX_ALL_SERIES: Final = 10_000
"""Series of all bundles together: 20 MB if they are histograms with 50 buckets."""
SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
}
"""By kind of metric: what is added to its name in the names of its samples. `_created` is reserved by OpenMetrics."""
_AGGREGATES: Final[Mapping[str, Callable[[Collection[float]], float]]] = {
    "sum": sum,
    "max": max,
    "min": min,
    "last": lambda values: list(values)[-1],
}
_NAME: Final = re.compile(r"(?!(tykpy|process)(_|\Z))[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__|(bundle|le|quantile)\Z)[a-zA-Z_][a-zA-Z0-9_]*")
_PRINTABLE: Final = str.isprintable
_REASONS: Final = {
    "metrics": f"it has more than {MAX_METRICS} metrics",
    "series": f"it has more than {MAX_SERIES:,} series, or all bundles more than {MAX_ALL_SERIES:,}: "
    "a label may have too many values",
    "redefined": "newer workers have another metric of that name",
    "bundles": f"there are more than {MAX_BUNDLES:,} bundles",
    "malformed": "a worker sent what cannot be a metric",
}

LabelValues = tuple[str, ...]
Numbers = tuple[float, ...]


class MetricDefinition(NamedTuple):
    """What distinguishes a metric from others of its name."""

    kind: str
    name: str
    """Without the `_total` of a counter."""
    labels: tuple[str, ...]
    buckets: Numbers
    """Upper bounds of a histogram's buckets; one more bucket has none."""
    aggregate: str
    """How the values of a gauge in several workers become one."""

    @property
    def sample_names(self) -> list[str]:
        """The names of its samples, and its own, which no other metric may have."""
        return list(dict.fromkeys((self.name, *(self.name + suffix for suffix in SUFFIXES[self.kind]))))

    @property
    def numbers(self) -> int:
        """How many numbers a series has."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    def is_valid(self) -> bool:
        """Return whether Prometheus allows it, and whether it is none of tykpy's own metrics."""
        is_histogram, is_gauge = self.kind == "histogram", self.kind == "gauge"
        return (
            self.kind in SUFFIXES
            and is_histogram == bool(self.buckets)
            and (self.aggregate in _AGGREGATES if is_gauge else not self.aggregate)
            and _NAME.fullmatch(self.name) is not None
            and all(_LABEL.fullmatch(label) for label in self.labels)
            and len(set(self.labels)) == len(self.labels)
            and all(map(isfinite, self.buckets))
            and all(low < high for low, high in pairwise(self.buckets))
        )

    def fits(self, values: LabelValues, numbers: Numbers) -> bool:
        """Return whether these can be a series, and what it grew by or its value."""
        if len(values) != len(self.labels) or len(numbers) != self.numbers or not all(map(_PRINTABLE, values)):
            return False
        if self.kind == "gauge":
            return True
        grown = numbers[1:] if self.kind == "histogram" else numbers
        return all(map(isfinite, numbers)) and all(number >= 0 for number in grown)


class PluginFamily(NamedTuple):
    """A metric of one bundle as it is exposed."""

    bundle: str
    definition: MetricDefinition
    help: str
    series: list[tuple[LabelValues, Numbers]]
    """A histogram's numbers are the sum of its values, and the values in each bucket."""


class _Metric:
    """A metric of one bundle."""

    def __init__(self, definition: MetricDefinition) -> None:
        self.definition = definition
        self.help = ""
        self.newest = 0
        """The newest worker that has it."""
        self.workers: set[int] = set()
        """The living workers that have it, by generation."""
        self._sums: dict[LabelValues, Numbers] = {}
        """Of counters and histograms."""
        self._values: dict[LabelValues, dict[int, float]] = {}
        """Of gauges, by worker; the one that was set last comes last."""

    def __len__(self) -> int:
        return len(self._sums) + len(self._values)

    def __contains__(self, values: LabelValues) -> bool:
        return values in self._sums or values in self._values

    def note(self, worker: int, text: str) -> None:
        """Note that a worker has it."""
        self.help = text
        self.workers.add(worker)
        self.newest = max(worker, self.newest)

    def add(self, worker: int, values: LabelValues, numbers: Numbers) -> None:
        """Add up what a worker has sent."""
        if self.definition.kind == "gauge":
            by_worker = self._values.setdefault(values, {})
            by_worker.pop(worker, None)
            by_worker[worker] = numbers[0]
        else:
            known = self._sums.get(values)
            self._sums[values] = numbers if known is None else tuple(map(add, known, numbers))

    def forget(self, worker: int) -> None:
        """Drop the values of a worker that has ended."""
        self.workers.discard(worker)
        for values, by_worker in list(self._values.items()):
            by_worker.pop(worker, None)
            if not by_worker:
                del self._values[values]

    def read(self) -> list[tuple[LabelValues, Numbers]]:
        """Return all series; in any thread."""
        if self.definition.kind != "gauge":
            return list(self._sums.items())
        aggregate = _AGGREGATES[self.definition.aggregate]
        current = [(values, list(by_worker.values())) for values, by_worker in list(self._values.items())]
        return [(values, (aggregate(numbers),)) for values, numbers in current if numbers]


class _Bundle:
    """The metrics of one bundle."""

    def __init__(self) -> None:
        self.metrics: dict[str, _Metric] = {}

    @property
    def series(self) -> int:
        """Series of all its metrics."""
        return sum(map(len, self.metrics.values()))

    def clashing(self, definition: MetricDefinition) -> list[_Metric]:
        """Return the metrics that cannot be there together with this one."""
        names = set(definition.sample_names)
        return [one for one in self.metrics.values() if not names.isdisjoint(one.definition.sample_names)]

    def replace(self, definition: MetricDefinition) -> _Metric:
        """Add a metric in place of those that it clashes with."""
        self.remove(self.clashing(definition))
        metric = self.metrics[definition.name] = _Metric(definition)
        return metric

    def make_room(self) -> None:
        """Drop the metrics that no living worker has."""
        self.remove([metric for metric in self.metrics.values() if not metric.workers])

    def remove(self, metrics: Iterable[_Metric]) -> None:
        """Remove metrics."""
        for metric in metrics:
            del self.metrics[metric.definition.name]


class PluginMetrics:
    """The metrics of all bundles."""

    def __init__(self) -> None:
        self._bundles: dict[str, _Bundle] = {}
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._notices = QuietLog(log)

    def receive(self, worker: int, body: dict[str, Any]) -> None:
        """Add up what a worker, by its generation, has counted since its last message about this metric."""
        name, series = body["bundle"], body["series"]
        definition = MetricDefinition(*(body[field] for field in MetricDefinition._fields))
        bundle = self._bundles.get(name) or _Bundle()
        metric = bundle.metrics.get(definition.name)
        if metric is None or metric.definition != definition:
            refusal = self._refusal(name, bundle, definition, worker)
            if refusal is not None:
                self.drop(name, refusal, len(series))
                return
            metric = bundle.replace(definition)
            self._bundles[name] = bundle
        metric.note(worker, body["help"])
        self._add(name, bundle, metric, worker, series)
        self._tidy(name, bundle)

    def drop(self, bundle: str, reason: str, count: int) -> None:
        """Count and log what is not exposed."""
        if reason not in _REASONS:
            reason = "malformed"
        if (bundle, reason) not in self._dropped and len(self._dropped) >= MAX_BUNDLES:
            bundle = OTHER
        self._dropped[bundle, reason] += count
        text = f"metrics of bundle {bundle or 'unknown'} are dropped: {_REASONS[reason]}"
        self._notices.log(logging.WARNING, f"{reason} {bundle}", text)

    def note_end(self, worker: int, bundles: Collection[str]) -> None:
        """Forget the gauges of a worker that has ended, and a bundle that no worker has any more.

        `bundles`: the names of those that are served. Their counters stay.
        """

        def is_gone(name: str) -> bool:
            # The name of a part begins with that of its bundle.
            return bool(name) and name.partition("/")[0] not in bundles

        for name, bundle in list(self._bundles.items()):
            for metric in bundle.metrics.values():
                metric.forget(worker)
            if is_gone(name):
                bundle.make_room()
            self._tidy(name, bundle)
        for name, reason in list(self._dropped):
            if name != OTHER and name not in self._bundles and is_gone(name):
                del self._dropped[name, reason]

    @property
    def families(self) -> Iterator[PluginFamily]:
        """All metrics; in any thread."""
        for name, bundle in sorted(self._bundles.copy().items()):
            for metric in list(bundle.metrics.values()):
                yield PluginFamily(name, metric.definition, metric.help, metric.read())

    @property
    def dropped(self) -> dict[tuple[str, str], int]:
        """What was dropped, by bundle and reason; in any thread."""
        return dict(self._dropped)

    def _refusal(self, name: str, bundle: _Bundle, definition: MetricDefinition, worker: int) -> str | None:
        """Return why a bundle cannot have a metric, or None."""
        if not definition.is_valid():
            return "malformed"
        if name not in self._bundles and len(self._bundles) >= MAX_BUNDLES:
            return "bundles"
        clashing = bundle.clashing(definition)
        if any(metric.newest > worker for metric in clashing):
            return "redefined"
        if not clashing and len(bundle.metrics) >= MAX_METRICS:
            bundle.make_room()
        return "metrics" if not clashing and len(bundle.metrics) >= MAX_METRICS else None

    def _add(
        self,
        name: str,
        bundle: _Bundle,
        metric: _Metric,
        worker: int,
        series: list[tuple[LabelValues, Numbers]],
    ) -> None:
        room: int | None = None
        surplus = malformed = 0
        for values, numbers in series:
            if not metric.definition.fits(values, numbers):
                malformed += 1
            elif values in metric:
                metric.add(worker, values, numbers)
            else:
                room = self._room(bundle) if room is None else room
                if room > 0:
                    metric.add(worker, values, numbers)
                    room -= 1
                else:
                    surplus += 1
        if surplus:
            self.drop(name, "series", surplus)
        if malformed:
            self.drop(name, "malformed", malformed)

    def _room(self, bundle: _Bundle) -> int:
        """Return how many series there is room for."""
        if bundle.series >= MAX_SERIES:
            bundle.make_room()
        return min(MAX_SERIES - bundle.series, MAX_ALL_SERIES - sum(one.series for one in self._bundles.values()))

    def _tidy(self, name: str, bundle: _Bundle) -> None:
        """Remove what is empty, so that there are no more metrics and bundles than series."""
        bundle.remove(metric for metric in list(bundle.metrics.values()) if not len(metric))
        if not bundle.metrics:
            self._bundles.pop(name, None)
