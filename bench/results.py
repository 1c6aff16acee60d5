"""What was measured: one `Sample` per repetition of a `Case`, their medians and spread, and the report as JSON."""

import json
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from tykpy.bench.errors import BenchError
from tykpy.bench.measure import NS_PER_US, usable_cpus

US_PER_SECOND: Final = 1e6
FORMAT: Final = 1
"""Version of the JSON file; others are refused."""


_BITS: Final = 7
"""Each power of two is divided by 2**7: a bucket is at most 1/128 of its values wide."""
RELATIVE_ERROR: Final = 2.0 ** -(_BITS + 1)
"""Relative error of a percentile: half a bucket."""


def bucket_of(value: int) -> int:
    """Return the bucket of a value; negative ones count as 0."""
    shift = value.bit_length() - _BITS - 1
    if shift <= 0 or value < 0:
        return max(0, value)
    return (shift << _BITS) + (value >> shift)


def bounds_of(bucket: int) -> tuple[int, int]:
    """Return the lowest and the highest value of a bucket."""
    shift = max(0, (bucket >> _BITS) - 1)
    low = (bucket - (shift << _BITS)) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """A log-linear histogram of durations in ns, like HdrHistogram: mergeable, with buckets that are 0.8 % wide.

    ```
    value        bucket                 width
    0..255       value                  1
    256..511     256 + (value-256)/2    2
    512..1023    384 + (value-512)/4    4     ... 128 buckets for each further power of two
    ```
    """

    __slots__ = ("_counts", "highest", "lowest", "total")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._counts: dict[int, int] = {}
        self.total = 0
        self.lowest = 0
        self.highest = 0
        self.record(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def record(self, values: Iterable[int]) -> None:
        """Count more values."""
        counts = self._counts
        more = list(values)
        for value in more:
            bucket = bucket_of(value)
            counts[bucket] = counts.get(bucket, 0) + 1
        if more:
            self._widen(min(more), max(more), len(more))

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        if other.total:
            self._widen(other.lowest, other.highest, other.total)

    def _widen(self, low: int, high: int, count: int) -> None:
        self.lowest = min(low, self.lowest) if self.total else low
        self.highest = max(high, self.highest) if self.total else high
        self.total += count

    def percentile(self, percent: float) -> int:
        """Return the value that `percent` of all values do not exceed, in ns; 0 if nothing was counted."""
        wanted = max(1, ceil(self.total * percent / 100))
        seen = 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            if seen >= wanted:
                return self._within(bucket)
        return 0

    def _within(self, bucket: int) -> int:
        low, high = bounds_of(bucket)
        return min(max((low + high) // 2, self.lowest), self.highest)

    def as_dict(self) -> dict[str, Any]:
        """Return what was counted, for JSON and msgpack."""
        return {"lowest": self.lowest, "highest": self.highest, "counts": sorted(map(list, self._counts.items()))}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the histogram that `as_dict` described; raises KeyError, TypeError or ValueError."""
        histogram = cls()
        histogram._counts = {int(bucket): int(count) for bucket, count in stored["counts"]}
        histogram.total = sum(histogram._counts.values())
        histogram.lowest, histogram.highest = int(stored["lowest"]), int(stored["highest"])
        return histogram


@dataclass(frozen=True, slots=True)
class Case:
    """A combination of settings that is measured.

    `workers` 0: unknown; `threads` 0: auto, or unknown; `rate` 0: closed loop; `body_size` None: the scenario's own.
    """

    scenario: str
    workers: int
    threads: int
    streams: int
    rate: float = 0.0
    body_size: int | None = None
    tracing: bool = False

    @property
    def load(self) -> str:
        """How calls are made, in words."""
        return f"{self.rate:,.0f}/s" if self.rate else f"{self.streams} streams"

    @property
    def pieces(self) -> tuple[str, ...]:
        """Workers, threads, load, body and tracing in words; empty for what is not set."""
        return (
            f"{self.workers} worker{'s' * (self.workers != 1)}" if self.workers else "",
            f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads else "",
            self.load,
            "" if self.body_size is None else f"{size_text(self.body_size)} body",
            "traceparents" if self.tracing else "",
        )

    @property
    def variant(self) -> str:
        """All but scenario and workers, in words."""
        return ", ".join(filter(None, self.pieces[1:]))

    @property
    def title(self) -> str:
        """All of it in words."""
        return ", ".join(filter(None, (self.scenario, *self.pieces)))


USUAL: Final = ("workers unknown", "threads: auto", "", "body as it is", "no traceparents")
"""Words for the pieces that are empty in `Case.pieces`."""


def labels(cases: Sequence[Case], *, with_workers: bool = True) -> list[str]:
    """Return a short name for each case of one scenario, without what all have in common if anything else is left."""
    first = 0 if with_workers else 1
    columns = [(number, [case.pieces[number] for case in cases]) for number in range(first, len(USUAL))]
    # Defaults are named only if they differ between cases.
    varied = [[piece or USUAL[number] for piece in column] for number, column in columns if len(set(column)) > 1]
    shown = varied or [column for _, column in columns][: 1 if with_workers else None]
    return [", ".join(filter(None, row)) for row in zip(*shown, strict=True)]


def size_text(size: int) -> str:
    """Return 1048576 as `1 MiB`."""
    for unit, name in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


@dataclass(frozen=True, slots=True)
class Usage:
    """CPUs used during the measured window, 1.0 being one whole CPU, and memory (PSS) in MiB after it.

    `broker` and `workers` are None where the broker's processes cannot be looked at.
    """

    cpus: int
    machine: float
    load: float
    """CPUs of all load generators together."""
    load_processes: int = 1
    broker: float | None = None
    workers: tuple[float, ...] | None = None
    broker_mib: float | None = None
    worker_mib: tuple[float, ...] | None = None
    waiting: float | None = None
    """Dispatches that waited in the broker for a worker: median of several looks; None if it was not asked."""

    ring_us: tuple[float, float] | None = None
    """CPU microseconds that a ring alone needs for such a dispatch, in broker and worker: part of theirs."""

    @property
    def each_worker(self) -> float:
        """CPUs that a worker used on average; 0 where they cannot be looked at."""
        return sum(self.workers) / len(self.workers) if self.workers else 0.0

    @property
    def ours(self) -> float:
        """CPUs that broker, workers and load generators used."""
        return self.load + (self.broker or 0.0) + sum(self.workers or ())

    @property
    def others(self) -> float:
        """CPUs that the machine's other processes used."""
        return max(0.0, self.machine - self.ours)


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition."""

    seconds: float
    answered: int
    """Calls that ended with OK within the measured window."""
    latencies: Histogram
    """In ns, of the calls that were due within the measured window."""
    usage: Usage
    failures: dict[str, int] = field(default_factory=dict)
    """Calls that ended with an error, by its text."""
    unanswered: int = 0
    """Calls that had no answer at the end."""

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds

    def cpu_us(self, cpus: float | None) -> float | None:
        """Return the CPU microseconds per dispatch of a process that used so many CPUs."""
        return None if cpus is None or not self.answered else cpus * US_PER_SECOND / self.rate

    @property
    def failed(self) -> int:
        """Calls without a good answer."""
        return sum(self.failures.values()) + self.unanswered


def _sum(parts: Iterable[float | None] | None) -> float | None:
    """Return the sum of the parts, None if any is unknown."""
    known = [] if parts is None else list(parts)
    return None if parts is None or None in known else sum(part for part in known if part is not None)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a sample."""

    name: str
    title: str
    unit: str
    more_is_better: bool
    of: Callable[[Sample], float | None]


def _percentile(percent: float) -> Callable[[Sample], float]:
    return lambda sample: sample.latencies.percentile(percent) / NS_PER_US


def _ring(side: int) -> Callable[[Sample], float | None]:
    return lambda sample: None if sample.usage.ring_us is None else sample.usage.ring_us[side]


def _workers_us(sample: Sample) -> float | None:
    return sample.cpu_us(_sum(sample.usage.workers))


METRICS: Final = (
    Metric("rate", "dispatches/s", "/s", True, lambda sample: sample.rate),
    Metric("p50_us", "p50", "us", False, _percentile(50)),
    Metric("p90_us", "p90", "us", False, _percentile(90)),
    Metric("p99_us", "p99", "us", False, _percentile(99)),
    Metric("p999_us", "p99.9", "us", False, _percentile(99.9)),
    Metric("broker_us", "broker CPU", "us", False, lambda sample: sample.cpu_us(sample.usage.broker)),
    Metric("workers_us", "workers CPU", "us", False, _workers_us),
    Metric("ring_us", "ring CPU", "us", False, lambda sample: _sum(sample.usage.ring_us)),
    Metric("ring_broker_us", "ring CPU in the broker", "us", False, _ring(0)),
    Metric("ring_workers_us", "ring CPU in the workers", "us", False, _ring(1)),
    Metric("total_us", "CPU per dispatch", "us", False,
           lambda sample: _sum((sample.cpu_us(sample.usage.broker), _workers_us(sample)))),
    Metric("load_us", "load generator CPU", "us", False, lambda sample: sample.cpu_us(sample.usage.load)),
    Metric("broker_mib", "broker's memory", "MiB", False, lambda sample: sample.usage.broker_mib),
    Metric("workers_mib", "workers' memory", "MiB", False, lambda sample: _sum(sample.usage.worker_mib)),
    Metric("memory_mib", "memory", "MiB", False,
           lambda sample: _sum((sample.usage.broker_mib, _sum(sample.usage.worker_mib)))),
)  # fmt: skip
METRIC: Final = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of a metric over the repetitions, and their range."""

    median: float
    lowest: float
    highest: float
    count: int

    @property
    def spread(self) -> float:
        """From the lowest to the highest, as a share of the median."""
        return (self.highest - self.lowest) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class CaseResult:
    """A case and its repetitions."""

    case: Case
    samples: tuple[Sample, ...]

    def figure(self, name: str) -> Figure | None:
        """Return a metric's median and range; None if it was not measured."""
        values = [value for sample in self.samples if (value := METRIC[name].of(sample)) is not None]
        return Figure(statistics.median(values), min(values), max(values), len(values)) if values else None

    def median(self, name: str) -> float | None:
        """Return a metric's median; None if it was not measured."""
        figure = self.figure(name)
        return None if figure is None else figure.median

    @property
    def latencies(self) -> Histogram:
        """Latencies of all repetitions together."""
        merged = Histogram()
        for sample in self.samples:
            merged.merge(sample.latencies)
        return merged

    @property
    def failed(self) -> int:
        """Calls without a good answer in all repetitions."""
        return sum(sample.failed for sample in self.samples)

    @property
    def failures(self) -> dict[str, int]:
        """Errors by text, of all repetitions."""
        counts: Counter[str] = Counter()
        for sample in self.samples:
            counts.update(sample.failures)
        return dict(counts)

    @property
    def usage(self) -> Usage:
        """Usage in the repetition with the median rate."""
        ordered = sorted(self.samples, key=lambda sample: sample.rate)
        return ordered[len(ordered) // 2].usage


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Everything that one `tykpy bench` measured."""

    command: str
    machine: dict[str, str]
    results: tuple[CaseResult, ...]


def machine() -> dict[str, str]:
    """Return what figures depend on besides the code."""
    return {
        "CPUs": str(usable_cpus()),
        "CPU": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tykpy": version("tykpy"),
        "protobuf": version("protobuf"),
    }


def group(results: Iterable[CaseResult], key: Callable[[Case], Any]) -> dict[Any, list[CaseResult]]:
    """Group results by a key of their cases, in their order."""
    groups: dict[Any, list[CaseResult]] = {}
    for result in results:
        groups.setdefault(key(result.case), []).append(result)
    return groups


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def as_dict(report: BenchReport) -> dict[str, Any]:
    """Return the report as JSON has it. The medians are for scripts, and are not read back."""
    results = [
        {
            "case": asdict(result.case),
            "medians": {metric.name: result.median(metric.name) for metric in METRICS},
            "samples": [_sample_dict(sample) for sample in result.samples],
        }
        for result in report.results
    ]
    return {"tykpy_bench": FORMAT, "command": report.command, "machine": report.machine, "results": results}


def _sample_dict(sample: Sample) -> dict[str, Any]:
    stored: dict[str, Any] = msgspec.to_builtins(sample, enc_hook=Histogram.as_dict)
    return {**stored, "latencies_ns": stored.pop("latencies")}


def write_json(report: BenchReport, path: Path) -> None:
    """Write the report; raises BenchError."""
    write_text(path, json.dumps(as_dict(report), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file; raises BenchError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from error


def read_json(path: Path) -> BenchReport:
    """Read what `write_json` wrote; raises BenchError."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"cannot read {path}: {error}") from error
    if not isinstance(stored, dict) or stored.get("tykpy_bench") != FORMAT:
        raise BenchError(f"{path} is not a JSON file of this version of tykpy bench")
    try:
        for sample in (sample for result in stored["results"] for sample in result["samples"]):
            sample["latencies"] = sample.pop("latencies_ns")
        return msgspec.convert(stored, BenchReport, dec_hook=lambda kind, value: kind.from_dict(value))
    except (AttributeError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise BenchError(f"{path} is damaged: {type(error).__name__} {error}") from error
