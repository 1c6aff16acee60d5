"""The benchmarks from start to end, as short as possible; conftest checks that they leave nothing behind."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.root import ROOT

TIMEOUT_SECONDS = 110

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not on PATH")
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not on PATH (nghttp2-client)")


@needs_h2load
def test_every_server_is_measured_and_ended(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.compare", "--grpc-only", "--workers", "1", "--streams", "2",
        "--rounds", "1", "--seconds", "0.01",
        "--json", str(tmp_path / "json"), "--markdown", str(tmp_path / "markdown"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "outlived" not in done.stderr
    report = json.loads((tmp_path / "json").read_text())
    assert [row["server"] for row in report["rows"]] == [
        "grpcio sync",
        "grpc.aio",
        "grpcio + processes",
        "tykpy, 1 worker",
    ]
    for row in report["rows"]:
        assert row["rate"] > 0
        assert row["cpu_us"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"]
    assert report["embedded"]["rate"] > 0
    assert report["embedded"]["cpu_us"] > 0
    assert [memory["processes"] > 1 for memory in report["memory"]] == [False, False, True, True]
    assert "| tykpy, 1 worker | 2 |" in (tmp_path / "markdown").read_text()


@needs_h2load
def test_bodies_are_measured_and_their_answers_checked(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.bodies", "--sizes", "1024,1048576", "--workers", "1", "--streams", "2",
        "--rounds", "1", "--seconds", "0.01",
        "--json", str(tmp_path / "json"), "--markdown", str(tmp_path / "markdown"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "outlived" not in done.stderr
    report = json.loads((tmp_path / "json").read_text())
    assert [(row["size"], row["server"]) for row in report["rows"]] == [
        (1024, "grpcio sync"),
        (1024, "tykpy, 1 worker"),
        (1048576, "grpcio sync"),
        (1048576, "tykpy, 1 worker"),
    ]
    assert [(row["ratio"], row["cpu_ratio"]) for row in report["rows"][::2]] == [(1, 1), (1, 1)]
    assert all(row["ratio"] > 0 and row["cpu_us"] > 0 for row in report["rows"])
    assert "| 1MiB | tykpy, 1 worker |" in (tmp_path / "markdown").read_text()


@needs_h2load
@pytest.mark.timeout(300)
def test_what_operations_cost_is_measured(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.overhead", "--streams", "2", "--rounds", "1", "--seconds", "0.01",
        "--starts", "2", "--json", str(tmp_path / "json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "outlived" not in done.stderr
    assert "starting brokers, 2 of 2" in done.stderr
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    settings = [
        "off",
        "metrics, access log",
        "and 1 % traced",
        "and all traced",
        "1 % recorded",
        "recorded",
        "all recorded",
    ]
    assert [(row["load"], row["setting"]) for row in rows] == [
        (load, setting) for load in ("header", "chain") for setting in settings
    ]
    assert all(row["rate"] > 0 for row in rows)
    assert [row["cpu_ratio"] for row in rows if row["setting"] == "off"] == [1, 1]


@needs_h2load
@needs_go
def test_a_gateway_is_measured_with_and_without_plugins(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.gateway", "--quick", "--clients", "2", "--columns", "header",
        "--json", str(tmp_path / "json"), "--markdown", str(tmp_path / "markdown"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "outlived" not in done.stderr
    assert "left out" not in done.stderr
    cells = json.loads((tmp_path / "json").read_text())["cells"]
    assert [cell["server"] for cell in cells] == ["none", "floor", "grpcio", "tykpy"]
    assert [cell["errors"] for cell in cells] == [0, 0, 0, 0]
    assert [cell["front_us"] > 0 for cell in cells] == [False, True, True, True]
    assert [cell["workers_us"] > 0 for cell in cells] == [False, False, False, True]
    assert all(min(cell["rate"], cell["gateway_us"], cell["upstream_us"], cell["load_us"]) > 0 for cell in cells)
    assert "| 2 clients, requests/s | header edit |" in (tmp_path / "markdown").read_text()


@pytest.mark.parametrize("benchmark", [["compare", "--quick"], ["bodies"], ["gateway"], ["overhead"]], ids=" ".join)
def test_a_missing_h2load_is_one_clear_line(tmp_path: Path, benchmark: list[str]) -> None:
    module, *flags = benchmark
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *flags],
        cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: h2load is not on PATH; on Debian or Ubuntu: apt-get install nghttp2-client"
    ]


def test_every_transport_has_a_row(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.ring",
        "--rounds",
        "2",
        "--count",
        "200",
        "--json",
        str(tmp_path / "json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {
        "tykpy channel",
        "multiprocessing.Pipe",
        "multiprocessing.Queue",
        "pyzmq ipc",
        "faster-fifo",
    }
    if find_spec("iceoryx2") is not None:
        wanted.add("iceoryx2")
    report = json.loads((tmp_path / "json").read_text())
    assert {row["name"] for row in report["results"]} == wanted
    for row in report["results"]:
        assert 0 < row["best_us"] <= row["median_us"] <= row["worst_us"]
        assert len(row["rounds_us"]) == 2
        assert f"\n| {row['name']} | " in done.stdout
    assert "Made by: python -m benchmarks.ring --rounds 2" in done.stdout
    assert f"pyzmq {version('pyzmq')}" in done.stdout
    assert ("iceoryx2 is not installed" in done.stdout) == ("iceoryx2" not in wanted)


def test_recovery_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.recovery", "--kills", "2", "--hangs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    *rows, bare = lines[2:]
    assert bare[:2] == ["kernel alone", "2"]
    assert [row[:2] for row in rows] == [["SIGKILL", "2"], ["hook spins", "1"], ["hook stops", "1"]]
    for row in rows:
        assert float(row[2]) > 0, "until the caller had the error"
        assert float(row[5]) > 0, "until it was served again"
