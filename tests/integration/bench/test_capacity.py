"""`python -m benchmarks.capacity` and `benchmarks.flamegraph` from start to end, as short as they go."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.capacity.measuring import trials
from tests.support.root import ROOT
from tykpy.bench.measure import usable_cpus

TIMEOUT_SECONDS = 110

needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not on PATH (nghttp2-client)")


def run(*words: str, path: str | None = None, without: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*without, sys.executable, "-m", *words], cwd=ROOT, env={"PATH": path} if path else None,
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip


@needs_h2load
def test_every_setting_is_predicted_and_measured() -> None:
    done = run("benchmarks.capacity", "--quick", "--seconds", "0.05")
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    wanted = [trial for trial in trials(usable_cpus()) if not trial.alone]
    assert [tuple(row[:3]) for row in rows] == [
        (trial.hook.text, str(trial.workers), str(trial.threads)) for trial in wanted
    ]
    for row in rows:
        predicted, measured = (float(row[at].split()[0].replace(",", "")) for at in (4, 6))
        assert predicted > 0
        assert measured > 0
    assert "python -m benchmarks.capacity --quick" in done.stdout


@needs_h2load
def test_flame_graphs_show_broker_and_worker_without_paths(tmp_path: Path) -> None:
    done = run("benchmarks.flamegraph", "--seconds", "1", "--folder", str(tmp_path))
    if "CAP_SYS_PTRACE" in done.stderr:
        pytest.skip("py-spy may not look into the broker here")
    assert done.returncode == 0, done.stderr
    broker, worker = ((tmp_path / f"flame-{name}.svg").read_text() for name in ("broker", "worker"))
    assert "(broker/" in broker
    assert "(workers/" in worker
    for text in (broker, worker):
        assert str(ROOT) not in text
        assert not re.search(r"<title>[^<]* \(/", text)


@needs_h2load
def test_a_missing_capability_is_named(tmp_path: Path) -> None:
    without = ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"] if os.geteuid() == 0 else []
    done = run("benchmarks.flamegraph", "--seconds", "1", "--folder", str(tmp_path), without=without)
    assert done.returncode == 1
    assert done.stderr.startswith("error: py-spy cannot look into the broker.")
    assert "CAP_SYS_PTRACE" in done.stderr
    assert "backtrace" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("benchmark", ["capacity", "flamegraph"])
def test_a_missing_h2load_is_one_clear_line(tmp_path: Path, benchmark: str) -> None:
    done = run(f"benchmarks.{benchmark}", path=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: h2load is not on PATH; on Debian or Ubuntu: apt-get install nghttp2-client"
    ]
