"""`python -m benchmarks.bars` from start to end, as short as it goes; conftest sees what it would leave behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.root import ROOT

TIMEOUT_SECONDS = 110
SECONDS = "0.2"
"""Enough for several ticks of CPU time, in which the kernel counts."""
KINDS = ["throughput", "traceparent", "chain", "ring", "idle-connections", "start-up"]

needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not on PATH (nghttp2-client)")


@needs_h2load
def test_bars_of_each_kind_are_measured(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.bars", "--rounds", "1", "--seconds", SECONDS,
        *(word for name in KINDS for word in ("--only", name)),
        "--json", str(tmp_path / "json"), "--markdown", str(tmp_path / "markdown"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "json").read_text())
    assert [bar["name"] for bar in report["bars"]] == KINDS
    assert report["failures"] == {}
    for bar in report["bars"]:
        assert bar["median"] > 0
        assert len(bar["values"]) == 1
    (throughput,) = (bar for bar in report["bars"] if bar["name"] == "throughput")
    assert [point["label"] for point in throughput["points"]] == ["grpcio sync, 64", "tykpy, 2 workers, 64"]
    assert all(point["rate"] > 0 and point["broker_us"] > 0 for point in throughput["points"])
    assert "| throughput |" in (tmp_path / "markdown").read_text()


def test_an_unknown_bar_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bars", "--only", "nothing"],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "invalid choice: 'nothing'" in done.stderr
