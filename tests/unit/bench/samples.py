"""Results as tests need them."""

from collections.abc import Iterable, Sequence
from typing import Any

from tykpy.bench.results import BenchReport, Case, CaseResult, LatencyHistogram, Sample, Usage

MS = 1_000_000
MACHINE = {"CPUs": "8", "CPU": "a <fast> one", "kernel": "6", "python": "3.11", "tykpy": "1", "protobuf": "7"}


def usage(**values: Any) -> Usage:
    """8 CPUs of which little is used."""
    quiet: dict[str, Any] = {
        "cpus": 8, "machine": 1.5, "load": 0.2, "broker": 0.4, "workers": (0.3, 0.3),
        "broker_mib": 20.0, "worker_mib": (21.0, 22.0), "waiting": 0.0, "ring_us": (4.0, 5.0),
    }  # fmt: skip
    return Usage(**(quiet | values))


def histogram_of(values: Iterable[int]) -> LatencyHistogram:
    """A histogram of these values."""
    histogram = LatencyHistogram()
    histogram.record(values)
    return histogram


def sample(answered: int = 1000, latencies: Sequence[int] = (MS, 2 * MS, 3 * MS), **values: Any) -> Sample:
    """A repetition of one second."""
    extra = {name: values.pop(name) for name in ("failures", "unanswered") if name in values}
    return Sample(1.0, answered, histogram_of(latencies), usage(**values), **extra)


def result(*samples: Sample, **values: Any) -> CaseResult:
    """A case with these repetitions."""
    description: dict[str, Any] = {"scenario": "header", "workers": 2, "threads": 0, "streams": 64}
    return CaseResult(Case(**(description | values)), samples or (sample(),))


def report(*results: CaseResult, **machine: str) -> BenchReport:
    """A report of these results."""
    return BenchReport("tykpy bench --scenario 'a & b'", MACHINE | machine, results)
