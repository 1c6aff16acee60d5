"""Metrics of a bundle: counters, gauges and histograms, which `tykpy broker --metrics` adds up over all workers.

`counter`, `gauge` and `histogram` return the same metric for the same name, so they can be called at the top of a file
as well as in a hook. A metric belongs to the bundle that created it. Nothing here waits, and no limit raises: what is
beyond one is dropped, and counted in `tykpy_plugin_metrics_dropped_total`.

What plugin code can reach takes no lock, as a finalizer might wait for its own thread: an update is one step in C that
queues it. Whoever finds a long queue replaces a part of it by its sum, which any number of threads may do at a time.
"""

import inspect
import math
import re
import sys
from bisect import bisect_left
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from itertools import islice, pairwise
from operator import add
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, ParamSpec, Self, TypeVar, cast

from tyk.errors import MetricError

__all__ = [
    "DEFAULT_BUCKETS",
    "Counter",
    "Gauge",
    "Histogram",
    "MetricSample",
    "collect",
    "counter",
    "gauge",
    "histogram",
]

Aggregate = Literal["sum", "max", "min", "last"]
"""How the values that a gauge has in several workers become one."""

DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of a histogram's buckets, made for seconds: those of prometheus-client."""
MAX_METRICS: Final = 100
"""Metrics of one bundle."""
MAX_SERIES: Final = 1_000
"""Series of one bundle: combinations of label values, over all its metrics."""
MAX_NAME: Final = 128
"""Longest name of a metric or label, in characters."""
MAX_HELP: Final = 256
"""Longest help text, in characters; longer ones are cut."""
MAX_LABELS: Final = 10
MAX_VALUE: Final = 128
"""Longest value of a label, in characters; longer ones are cut."""
MAX_BUCKETS: Final = 50

_AGGREGATES: Final = ("sum", "max", "min", "last")
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_OWN_NAME: Final = re.compile(r"(tykpy|process)(_.*)?")
_OWN_LABELS: Final = {
    "bundle": "tykpy adds it itself",
    "le": "a histogram has it for its buckets",
    "quantile": "a summary has it",
}
_SUFFIXES: Final = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
}
"""What is added to a metric's name in the names of its samples; `_created` is reserved."""
_QUEUED: Final = 64
"""Updates of a series that are replaced by their sum."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class MetricSample(NamedTuple):
    """One line of `/metrics`, as far as this process knows it."""

    name: str
    labels: dict[str, str]
    value: float


class Definition(NamedTuple):
    """What distinguishes a metric from others of its name."""

    kind: str
    """`counter`, `gauge` or `histogram`."""
    name: str
    """Without the `_total` of a counter."""
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    aggregate: str = ""

    def __str__(self) -> str:
        text = f"{self.kind} {self.name!r} with labels {self.labels}"
        if self.buckets:
            text += f" and buckets {self.buckets}"
        return f"{text} and aggregate {self.aggregate!r}" if self.aggregate else text

    @property
    def sample_names(self) -> list[str]:
        """The names that no other metric may have."""
        return [self.name, *(self.name + suffix for suffix in _SUFFIXES[self.kind] if suffix)]


class _Metric:
    """A metric, or one of its series: a metric without labels is its only series."""

    __slots__ = ("_family", "_is_reported", "_is_series", "_values", "definition")

    def __init__(self, definition: Definition, family: "_Family", values: tuple[str, ...] | None) -> None:
        self.definition = definition
        self._family = family
        self._values = values or ()
        self._is_series = values is not None
        self._is_reported = False

    def labels(self, *values: object, **named: object) -> Self:
        """Return the series with these label values, by position or by name; keep it if you use it often.

        Values become text; control characters are escaped, and long ones are cut.

        Raises MetricError if there are more or fewer values than labels.
        """
        if self._is_series:
            raise MetricError(f"{self.definition} is a single series: it takes no label values")
        # Keys are plain texts, and so is nearly every argument.
        try:
            known = None if named else self._family.series.get(cast(tuple[str, ...], values))
        except TypeError:  # cannot be hashed
            known = None
        return cast(Self, known or self._family.open(self._label_values(values, named)))

    def _label_values(self, values: tuple[object, ...], named: dict[str, object]) -> tuple[str, ...]:
        names = self.definition.labels
        if values and named:
            raise MetricError(f"{self.definition}: give label values by position or by name, not both")
        if len(values) + len(named) != len(names) or not named.keys() <= set(names):
            given = ", ".join(named) if named else f"{len(values)} value{'s' * (len(values) != 1)}"
            raise MetricError(f"{self.definition}: labels() got {given}; give a value for each label")
        return tuple(_clean(named[name], MAX_VALUE) for name in names) if named else tuple(
            _clean(value, MAX_VALUE) for value in values
        )  # fmt: skip

    def _update(self, updates: deque[Any], update: float) -> None:
        """Queue what is to be added to the value."""
        if not self._is_series:
            raise self._needs_labels()
        updates.append(update)
        if len(updates) > _QUEUED:
            updates.append(self._sum(_taken(updates, _QUEUED)))

    def _needs_labels(self) -> MetricError:
        return MetricError(f"{self.definition}: call labels(...) first, and change the series that it returns")

    def _sum(self, updates: Iterable[Any]) -> Any:
        """Return one update for several."""
        return sum(updates)

    def _report(self) -> list[float] | None:
        """Return what is new since the last call, None if nothing is; for one thread.

        Of a counter, by how much it has grown; of a gauge, its value; of a histogram, by how much its sum and its
        buckets have grown. What another thread is just adding up comes with the next report.
        """
        raise NotImplementedError

    def _samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield the suffix, further labels and value of each sample."""
        raise NotImplementedError

    def _collect(self) -> Iterator[MetricSample]:
        labels = dict(zip(self.definition.labels, self._values, strict=True))
        for suffix, more, value in self._samples():
            yield MetricSample(self.definition.name + suffix, {**labels, **more}, value)

    def _forget(self) -> None:
        """Be as new."""
        type(self).__init__(self, self.definition, self._family, self._values)


class Counter(_Metric):
    """A number that only grows."""

    __slots__ = ("_reported", "_updates")

    def __init__(self, definition: Definition, family: "_Family", values: tuple[str, ...] | None) -> None:
        super().__init__(definition, family, values)
        self._updates: deque[float] = deque()
        self._reported = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add `amount`. Raises ValueError if it is negative or not finite."""
        amount = float(amount)
        if not 0 <= amount <= sys.float_info.max:
            raise ValueError(f"{self.definition}: a counter grows by 0 or more, not by {amount}; use a gauge")
        self._update(self._updates, amount)

    def _report(self) -> list[float] | None:
        if self._is_reported and not self._updates:
            return None
        self._is_reported = True
        grown = float(self._sum(_taken(self._updates, len(self._updates))))
        self._reported += grown
        return [grown]

    def _samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        yield "_total", {}, self._reported + self._sum(self._updates.copy())


class Gauge(_Metric):
    """A number that goes up and down."""

    __slots__ = ("_reported", "_state")

    def __init__(self, definition: Definition, family: "_Family", values: tuple[str, ...] | None) -> None:
        super().__init__(definition, family, values)
        self._state: tuple[float, deque[float]] = 0.0, deque()
        """The value that was set, and what has been added since: one thing, so that it is replaced in one step."""
        self._reported = 0.0

    def set(self, value: float) -> None:
        """Set the value."""
        if not self._is_series:
            raise self._needs_labels()
        # What other threads add to the old queue at this moment counts as added before.
        self._state = float(value), deque()

    def inc(self, amount: float = 1) -> None:
        """Add `amount`."""
        self._update(self._state[1], float(amount))

    def dec(self, amount: float = 1) -> None:
        """Subtract `amount`."""
        self._update(self._state[1], -float(amount))

    def _value(self) -> float:
        value, updates = self._state
        return value + float(self._sum(updates.copy()))

    def _report(self) -> list[float] | None:
        value = self._value()
        if self._is_reported and value == self._reported:
            return None
        self._is_reported, self._reported = True, value
        return [value]

    def _samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        yield "", {}, self._value()


class Histogram(_Metric):
    """How often values were seen, by size."""

    __slots__ = ("_reported", "_updates")

    def __init__(self, definition: Definition, family: "_Family", values: tuple[str, ...] | None) -> None:
        super().__init__(definition, family, values)
        self._updates: deque[float | list[float]] = deque()
        self._reported = self._sum(())

    def observe(self, value: float) -> None:
        """Count a value. Raises ValueError if it is not finite."""
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(f"{self.definition}: {value} cannot be counted, only finite numbers")
        self._update(self._updates, value)

    def time(self) -> "_Timer":
        """Return a context manager and decorator, of `def` and `async def`, that observes how many seconds it took."""
        return _Timer(self)

    def _sum(self, updates: Iterable[float | list[float]]) -> list[float]:
        """Return the sum of all values, then their number in each bucket; the last bucket has no bound."""
        bounds = self.definition.buckets
        total = [0.0] * (len(bounds) + 2)
        for update in updates:
            if isinstance(update, list):
                total = list(map(add, total, update))
            else:
                total[0] += update
                total[1 + bisect_left(bounds, update)] += 1
        return total

    def _report(self) -> list[float] | None:
        if self._is_reported and not self._updates:
            return None
        self._is_reported = True
        grown = self._sum(_taken(self._updates, len(self._updates)))
        self._reported = list(map(add, self._reported, grown))
        return grown

    def _samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        total, *counts = self._sum([self._reported, *self._updates.copy()])
        seen = 0.0
        for bound, count in zip((*self.definition.buckets, math.inf), counts, strict=True):
            seen += count
            yield "_bucket", {"le": "+Inf" if bound == math.inf else str(bound)}, seen
        yield "_sum", {}, total
        yield "_count", {}, seen


def _taken(updates: deque[Any], most: int) -> Iterator[Any]:
    """Remove updates and yield them."""
    for _ in range(most):
        try:
            yield updates.popleft()
        except IndexError:  # another thread was faster
            return


class _Timer:
    """Observes the seconds that a block or a function takes."""

    __slots__ = ("_histogram", "_started")

    _now = staticmethod(perf_counter)  # libraries that freeze time replace it in the module (freezegun)

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._started = self._now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._histogram.observe(self._now() - self._started)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        histogram = self._histogram

        @wraps(function)
        def timed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with _Timer(histogram):
                return function(*args, **kwargs)

        @wraps(function)
        async def timed_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            with _Timer(histogram):
                return await cast(Any, function(*args, **kwargs))

        return cast(Callable[_P, _R], timed_async) if inspect.iscoroutinefunction(function) else timed


class _Family:
    """A metric with its series."""

    def __init__(self, kind: type[_Metric], definition: Definition, text: str, bundle: "BundleMetrics") -> None:
        self.definition = definition
        self.help = text
        self.series: dict[tuple[str, ...], _Metric] = {}
        """By label values. Threads may add series at any time."""
        self._parked: dict[tuple[str, ...], _Metric] = {}
        """Series of earlier tests, which plugin code may have kept: those are used again."""
        self._kind = kind
        self._bundle = bundle
        self._surplus = kind(definition, self, ())
        """Takes the updates of series that there is no room for, and is not exposed."""
        # A metric without labels is exposed as 0 before it is used.
        self.metric = kind(definition, self, None) if definition.labels else self.open(())

    def open(self, values: tuple[str, ...]) -> _Metric:
        """Return a series; where there is no room, one that is not exposed."""
        found = self.series.get(values)
        if found is not None:
            return found
        if not self._bundle.has_room():
            return self._surplus
        one = self._parked.pop(values, None) or self._kind(self.definition, self, values)
        return self.series.setdefault(values, one)

    def used(self) -> list[_Metric]:
        """Return the series that are exposed."""
        kept = [one for one in list(self._parked.values()) if any(sample.value for sample in one._collect())]
        return [*list(self.series.values()), *kept]

    def forget(self) -> None:
        """Forget all values and series."""
        self._parked |= self.series
        for one in self._parked.values():
            one._forget()
        self.series.clear()
        if not self.definition.labels:
            self.open(())


class MetricChange(NamedTuple):
    """The series of one metric that have changed."""

    definition: Definition
    help: str
    series: list[tuple[tuple[str, ...], list[float]]]
    """Label values and numbers: of a counter, by how much it grew; of a gauge, its value; of a histogram, by how much
    its sum and its buckets grew."""


class BundleMetrics:
    """The metrics of one bundle in this process."""

    def __init__(self) -> None:
        self.dropped: Tally[str] = Tally()
        """What there was no room for, by reason. Racing threads may miss one."""
        self._families: dict[str, _Family] = {}
        self._owners: dict[str, _Family] = {}
        """The families by the names of their samples."""
        self._series = 0
        """Racing threads may miss one: the broker keeps to the limit exactly."""

    def define(self, kind: type[_Metric], definition: Definition, text: str) -> _Metric:
        """Return the metric, which may exist. Raises MetricError if another one has the name."""
        names = definition.sample_names
        for name in names:
            if (other := self._owners.get(name)) is not None and other.definition != definition:
                raise MetricError(
                    f"there is a {other.definition} already, so there cannot be a {definition}: choose another name"
                )
        known = self._families.get(definition.name)
        if known is not None:
            return known.metric
        if len(self._families) >= MAX_METRICS:
            self.dropped["metrics"] += 1
            return _Family(kind, definition, text, _NOWHERE).metric
        known = self._families.setdefault(definition.name, _Family(kind, definition, text, self))
        for name in names:
            self._owners.setdefault(name, known)
        return known.metric

    def has_room(self) -> bool:
        """Make room for another series and return True, or count that it is dropped."""
        if self._series < MAX_SERIES:
            self._series += 1
            return True
        self.dropped["series"] += 1
        return False

    def changes(self) -> Iterator[MetricChange]:
        """Yield what has changed since the last time. For one thread."""
        for family in self._all():
            found = [(key, numbers) for key, one in list(family.series.items()) if (numbers := one._report())]
            if found:
                yield MetricChange(family.definition, family.help, found)

    def collect(self) -> Iterator[MetricSample]:
        """Yield all samples."""
        for family in self._all():
            for one in family.used():
                yield from one._collect()

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names of labels by the names of samples."""
        found: dict[str, tuple[str, ...]] = {}
        for family in self._all():
            for suffix in _SUFFIXES[family.definition.kind]:
                if suffix != "_created":
                    more = ("le",) if suffix == "_bucket" else ()
                    found[family.definition.name + suffix] = family.definition.labels + more
        return found

    def forget(self) -> None:
        """Forget all values and series, and what was dropped; the metrics stay, as plugin code has them."""
        self.dropped.clear()
        self._series = 0
        for family in self._all():
            family.forget()

    def _all(self) -> list[_Family]:
        # Other threads may add some meanwhile.
        return list(self._families.values())


class _Nowhere(BundleMetrics):
    """Where metrics are that there is no room for: they work, and are not exposed."""

    def has_room(self) -> bool:
        return False


_NOWHERE: Final = _Nowhere()


class Registry:
    """The metrics of all bundles in this process."""

    def __init__(self) -> None:
        self.owner: Callable[[], str] = str
        """Returns the name of the bundle that acts; outside of a worker there is one without a name."""
        self.bundles: dict[str, BundleMetrics] = {}
        self.on_use: Callable[[], object] = lambda: None
        """Called when a metric is created, which may be an old one."""

    def define(self, kind: type[_Metric], definition: Definition, text: str) -> _Metric:
        """Return a metric of the bundle that acts."""
        metric = self.current().define(kind, definition, text)
        self.on_use()
        return metric

    def forget(self) -> None:
        """Forget the values of all metrics in this process, for the next test."""
        for bundle in list(self.bundles.values()):
            bundle.forget()

    def current(self) -> BundleMetrics:
        """Return the metrics of the bundle that acts."""
        return self.bundles.setdefault(self.owner(), BundleMetrics())


registry: Final = Registry()


def counter(name: str, help: str = "", labels: Sequence[str] = ()) -> Counter:  # noqa: A002 (prometheus-client's name)
    """Return a counter; with or without `_total` at its end, the name is exposed with it.

    Raises MetricError for a name or label that Prometheus does not allow, or that another metric has.
    """
    definition = _definition("counter", str(name).removesuffix("_total"), labels)
    return cast(Counter, registry.define(Counter, definition, _clean(help, MAX_HELP)))


def gauge(
    name: str,
    help: str = "",  # noqa: A002
    labels: Sequence[str] = (),
    *,
    aggregate: Aggregate = "sum",
) -> Gauge:
    """Return a gauge. `aggregate`: the sum, the largest or the smallest of its values in all workers, or the last set.

    The values of a worker that has ended do not count. Raises MetricError as `counter` does.
    """
    if aggregate not in _AGGREGATES:
        raise MetricError(f"gauge {name!r}: aggregate is one of {', '.join(_AGGREGATES)}, not {aggregate!r}")
    definition = _definition("gauge", name, labels)._replace(aggregate=aggregate)
    return cast(Gauge, registry.define(Gauge, definition, _clean(help, MAX_HELP)))


def histogram(
    name: str,
    help: str = "",  # noqa: A002
    labels: Sequence[str] = (),
    *,
    buckets: Iterable[float] = DEFAULT_BUCKETS,
) -> Histogram:
    """Return a histogram; `buckets` are the upper bounds of its buckets, and one more has none.

    Raises MetricError as `counter` does, and for buckets that do not ascend or are too many.
    """
    bounds = tuple(map(float, islice(buckets, MAX_BUCKETS + 2)))
    bounds = bounds[:-1] if bounds[-1:] == (math.inf,) else bounds
    ascend = all(low < high for low, high in pairwise(bounds))
    if not (ascend and all(map(math.isfinite, bounds)) and 0 < len(bounds) <= MAX_BUCKETS):
        raise MetricError(f"histogram {name!r}: buckets are 1 to {MAX_BUCKETS} ascending numbers, not {bounds}")
    definition = _definition("histogram", name, labels)._replace(buckets=bounds)
    return cast(Histogram, registry.define(Histogram, definition, _clean(help, MAX_HELP)))


def collect() -> list[MetricSample]:
    """Return the samples of this bundle in this process, for tests and scripts; a broker adds up those of all workers.

    Outside of a worker there is one bundle.
    """
    return list(registry.current().collect())


def _definition(kind: str, name: str, labels: Sequence[str]) -> Definition:
    what = f"{kind} {name!r}"
    if isinstance(labels, str):
        raise MetricError(f"{what}: labels is a list of names, not {labels!r}")
    # Not of a class that a plugin may have made.
    name, names = _clean(name, MAX_NAME), tuple(_clean(label, MAX_NAME) for label in labels)
    if not _NAME.fullmatch(name):
        raise MetricError(f"{what}: a name has at most {MAX_NAME} letters, digits, _ and :, and no digit first")
    if _OWN_NAME.fullmatch(name):
        raise MetricError(f"{what}: names with tykpy_ and process_ are those of tykpy; choose another prefix")
    if len(names) > MAX_LABELS or len(set(names)) < len(names):
        raise MetricError(f"{what}: there are at most {MAX_LABELS} labels, each of them once, not {names}")
    for label in names:
        if label in _OWN_LABELS:
            raise MetricError(f"{what}: there cannot be a label {label!r}, {_OWN_LABELS[label]}")
        if not _LABEL.fullmatch(label):
            raise MetricError(f"{what}: a label has letters, digits and _, and no digit or __ first, unlike {label!r}")
    return Definition(kind, name, names)


def _clean(value: object, limit: int) -> str:
    """Return a value as printable text, cut to `limit` characters, without the class that a plugin may have made."""
    text = str.__getitem__(str(value), slice(limit + 1))
    if not text.isprintable():
        text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
