"""The JSON file of a report: written for scripts and for `--compare`, read back by the latter."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tykpy.bench.errors import BenchError
from tykpy.bench.histogram import Histogram
from tykpy.bench.results import METRICS, BenchReport, Case, CaseResult, Sample, Usage

FORMAT: Final = 1
"""Other formats are refused."""


def as_dict(report: BenchReport) -> dict[str, Any]:
    """The report as JSON has it; the medians are for scripts, and not read back."""
    results = [_result_dict(result) for result in report.results]
    return {"tykpy_bench": FORMAT, "command": report.command, "machine": report.machine, "results": results}


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
        return BenchReport(stored["command"], dict(stored["machine"]), tuple(map(_result_of, stored["results"])))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is damaged: {type(error).__name__} {error}") from error


def _result_dict(result: CaseResult) -> dict[str, Any]:
    medians = {metric.name: result.median(metric.name) for metric in METRICS}
    samples = [
        {
            "seconds": sample.seconds,
            "answered": sample.answered,
            "failures": sample.failures,
            "unanswered": sample.unanswered,
            "usage": asdict(sample.usage),
            "latencies_ns": sample.latencies.as_dict(),
        }
        for sample in result.samples
    ]
    return {"case": asdict(result.case), "medians": medians, "samples": samples}


def _result_of(stored: Mapping[str, Any]) -> CaseResult:
    return CaseResult(Case(**stored["case"]), tuple(map(_sample_of, stored["samples"])))


def _sample_of(stored: Mapping[str, Any]) -> Sample:
    usage = dict(stored["usage"])
    for name in ("workers", "worker_mib", "ring_us"):
        if usage.get(name) is not None:
            usage[name] = tuple(usage[name])
    return Sample(
        float(stored["seconds"]),
        int(stored["answered"]),
        Histogram.from_dict(stored["latencies_ns"]),
        Usage(**usage),
        dict(stored["failures"]),
        int(stored["unanswered"]),
    )
