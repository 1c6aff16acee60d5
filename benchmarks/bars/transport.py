"""The rings alone against what else carries bytes between two processes: `benchmarks.ring`, in a process of its own,
which it pins to one core.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.bars.bar import Bar, BarOutcome
from benchmarks.rounds import Pace, PlotPoint, ratios
from tykpy.bench.errors import BenchError

RING: Final = Bar("ring", "ring round trip, 900 bytes, 64 in flight, against the fastest other transport", 1.0, False)
OURS: Final = "tykpy channel"
ROUND_TRIPS_PER_SECOND: Final = 20_000
TIMEOUT_SECONDS: Final = 300


def measure(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure against the transport with the best median."""
    file = folder / "ring.json"
    count = max(1000, int(ROUND_TRIPS_PER_SECOND * pace.seconds))
    command = [sys.executable, "-m", "benchmarks.ring", "--rounds", str(pace.rounds), "--count", str(count)]
    command += ["--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        raise BenchError(f"benchmarks.ring failed:\n{done.stderr}")
    report: dict[str, Any] = json.loads(file.read_text())
    return [_outcome(report)]


def _outcome(report: dict[str, Any]) -> BarOutcome:
    by_name = {result["name"]: result for result in report["results"]}
    ours = by_name[OURS]
    others = [result for name, result in by_name.items() if not name.startswith("tykpy")]
    best = min(others, key=lambda result: float(result["median_us"]))
    told = ", ".join(f"{result['name']} {result['median_us']:.2f} us" for result in report["results"])
    missing = "".join(f"; not measured: {text}" for text in report["missing"])
    points = tuple(PlotPoint(result["name"], p50_us=result["median_us"]) for result in report["results"])
    return BarOutcome(RING, ratios(ours["rounds_us"], best["rounds_us"]), told + missing, points)
