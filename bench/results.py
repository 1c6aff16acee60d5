"""What was measured: one `Sample` per repetition of a `Case`, their medians and spread, and the report as JSON."""

import json
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tykpy.bench.errors import BenchError
from tykpy.bench.measure import NS_PER_US, usable_cpus
from tykpy.broker.units import show_size
from tykpy.telemetry.records import counted

US_PER_SECOND: Final = 1e6
FORMAT: Final = 2
"""Version of the JSON file; others are refused."""
_BITS: Final = 8
RELATIVE_ERROR: Final = 2.0**-_BITS
"""Relative error of a percentile."""


class LatencyHistogram(Counter[int]):
    """Durations in ns, rounded to 8 significant bits, and how many there were of each."""

    def record(self, values: Iterable[int]) -> None:
        """Count more values."""
        self.update(map(_rounded, values))

    def percentile(self, percent: float) -> int:
        """Return the value that `percent` of all values do not exceed, in ns; 0 if nothing was counted."""
        left = max(1, ceil(self.total() * percent / 100))
        for value, count in sorted(self.items()):
            left -= count
            if left <= 0:
                return value
        return 0


def _rounded(value: int) -> int:
    """Return the middle of the values that have the same first bits."""
    shift = value.bit_length() - _BITS
    return value if shift <= 0 else (value >> shift << shift) + (1 << shift >> 1)


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
    def pieces(self) -> tuple[str, ...]:
        """Workers, threads, load, body and tracing in words."""
        return (
            counted(self.workers, "worker") if self.workers else "workers unknown",
            counted(self.threads, "thread") if self.threads else "threads: auto",
            f"{self.rate:,.0f}/s" if self.rate else counted(self.streams, "stream"),
            "body as it is" if self.body_size is None else f"{show_size(self.body_size)} body",
            "traceparents" if self.tracing else "no traceparents",
        )

    @property
    def variant(self) -> str:
        """All but scenario and workers, in words."""
        return _joined(self.pieces[1:])

    @property
    def title(self) -> str:
        """All of it in words."""
        return _joined((self.scenario, *self.pieces))


_USUAL: Final = ("workers unknown", "threads: auto", "body as it is", "no traceparents")


def _joined(pieces: Iterable[str]) -> str:
    return ", ".join(piece for piece in pieces if piece not in _USUAL)


def labels(cases: Sequence[Case], *, with_workers: bool = True) -> list[str]:
    """Return a short name for each case of one scenario, without what all have in common if anything else is left."""
    columns = list(zip(*(case.pieces for case in cases), strict=True))[0 if with_workers else 1 :]
    if varied := [column for column in columns if len(set(column)) > 1]:
        return [", ".join(row) for row in zip(*varied, strict=True)]
    return [case.pieces[0] if with_workers else case.variant for case in cases]


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
    latencies_ns: LatencyHistogram
    """Of the calls that were due within the measured window."""
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


def _percentile(percent: float) -> Callable[[Sample], float]:
    return lambda sample: sample.latencies_ns.percentile(percent) / NS_PER_US


def _ring(side: int) -> Callable[[Sample], float | None]:
    return lambda sample: None if sample.usage.ring_us is None else sample.usage.ring_us[side]


def _workers_us(sample: Sample) -> float | None:
    return sample.cpu_us(_sum(sample.usage.workers))


METRICS: Final[dict[str, Callable[[Sample], float | None]]] = {
    "rate": lambda sample: sample.rate,
    "p50_us": _percentile(50),
    "p90_us": _percentile(90),
    "p99_us": _percentile(99),
    "p999_us": _percentile(99.9),
    "broker_us": lambda sample: sample.cpu_us(sample.usage.broker),
    "workers_us": _workers_us,
    "ring_us": lambda sample: _sum(sample.usage.ring_us),
    "ring_broker_us": _ring(0),
    "ring_workers_us": _ring(1),
    "total_us": lambda sample: _sum((sample.cpu_us(sample.usage.broker), _workers_us(sample))),
    "load_us": lambda sample: sample.cpu_us(sample.usage.load),
    "broker_mib": lambda sample: sample.usage.broker_mib,
    "workers_mib": lambda sample: _sum(sample.usage.worker_mib),
    "memory_mib": lambda sample: _sum((sample.usage.broker_mib, _sum(sample.usage.worker_mib))),
}
"""Figures of a sample by name, None if not measured; all but `rate` are better if they are lower."""


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
        values = [value for sample in self.samples if (value := METRICS[name](sample)) is not None]
        return Figure(statistics.median(values), min(values), max(values), len(values)) if values else None

    def median(self, name: str) -> float | None:
        """Return a metric's median; None if it was not measured."""
        figure = self.figure(name)
        return None if figure is None else figure.median

    @property
    def latencies_ns(self) -> LatencyHistogram:
        """Latencies of all repetitions together."""
        merged = LatencyHistogram()
        for sample in self.samples:
            merged.update(sample.latencies_ns)
        return merged

    @property
    def failed(self) -> int:
        """Calls without a good answer in all repetitions."""
        return sum(sample.failed for sample in self.samples)

    @property
    def failures(self) -> dict[str, int]:
        """Errors by text, of all repetitions."""
        return sum((Counter(sample.failures) for sample in self.samples), Counter[str]())

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
    tykpy_bench: Literal[2] = FORMAT


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


def write_json(report: BenchReport, path: Path) -> None:
    """Write the report with its medians, which are for scripts and not read back; raises BenchError."""
    stored = msgspec.to_builtins(report)
    for result, case in zip(report.results, stored["results"], strict=True):
        case["medians"] = {name: result.median(name) for name in METRICS}
    write_text(path, json.dumps(stored, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file; raises BenchError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from error


def read_json(path: Path) -> BenchReport:
    """Read what `write_json` wrote; raises BenchError."""

    def histogram(_: type, stored: dict[str, int]) -> LatencyHistogram:
        return LatencyHistogram({int(value): count for value, count in stored.items()})

    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchReport, dec_hook=histogram)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, AttributeError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is not a JSON file of this version of tykpy bench: {error}") from error
