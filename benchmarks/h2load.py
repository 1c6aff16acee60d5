"""Drives a gRPC server over a Unix socket with nghttp2's h2load, and reads what it measured.

h2load knows HTTP/2 but not gRPC: an error that is sent as trailers has HTTP status 200 as well. An error carries no
message, so the sum of the DATA bytes says whether every answer was one.
"""

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.objects import DISPATCH_PATH
from tykpy.bench.errors import BenchError

DEBIAN_PACKAGE: Final = "nghttp2-client"
TIMEOUT_SECONDS: Final = 300

_FINISHED: Final = re.compile(r"^finished in [\d.]+\w*, ([\d.]+) req/s", re.MULTILINE)
_REQUESTS: Final = re.compile(r"^requests: (\d+) total, .*?(\d+) succeeded, (\d+) failed", re.MULTILINE)
_STATUS: Final = re.compile(r"^status codes: (\d+) 2xx", re.MULTILINE)
_DATA: Final = re.compile(r"^traffic: .*\((\d+)\) data\s*$", re.MULTILINE)
_LOG_FIELDS: Final = 3


class Summary(NamedTuple):
    """What h2load prints at the end."""

    rate: float
    """Requests per second."""
    requests: int
    succeeded: int
    ok: int
    """Answers with an HTTP status of 2xx."""
    data_bytes: int


class Load(NamedTuple):
    """One run."""

    requests: int
    rate: float
    """Requests per second."""
    p50_us: float
    p99_us: float
    cpu_us: float
    """The load generator's own CPU time per request."""


def find() -> str:
    """The program's path; raises BenchError that says how to install it."""
    path = shutil.which("h2load")
    if path is None:
        raise BenchError(f"h2load is not on PATH; on Debian or Ubuntu: apt-get install {DEBIAN_PACKAGE}")
    return path


def install() -> None:
    """Install h2load with apt-get where that is possible: as root, on Debian and its children."""
    if shutil.which("h2load") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", DEBIAN_PACKAGE], check=False, stdin=subprocess.DEVNULL)


def run(socket: Path, body: Path, requests: int, streams: int, answer_size: int, connections: int = 1) -> Load:
    """Send `requests` dispatches, `streams` at a time over each connection.

    `body` is a file with a framed message, `answer_size` the size of each framed answer in bytes.
    Raises BenchError where h2load fails or an answer was not the expected one.
    """
    log = body.with_suffix(".log")
    log.unlink(missing_ok=True)
    output, cpu_seconds = execute([
        "-n", str(requests), "-c", str(connections), "-m", str(streams), "-d", str(body), f"--log-file={log}",
        "-H", "content-type: application/grpc", "-H", "te: trailers",
        "-B", f"unix:{socket}", f"http://localhost{DISPATCH_PATH}",
    ])  # fmt: skip
    cpu_us = cpu_seconds / requests * 1e6
    summary = parse_summary(output)
    check(summary, requests, answer_size)
    # The first request of each stream waits for the connection: it says nothing of the server.
    latencies = sorted(parse_log(log.read_text())[streams * connections :])
    return Load(requests, summary.rate, percentile(latencies, 50), percentile(latencies, 99), cpu_us)


def check(summary: Summary, requests: int, answer_size: int) -> None:
    """Raise BenchError unless every request was answered by a message of the expected size."""
    if not summary.requests == summary.succeeded == summary.ok == requests:
        raise BenchError(f"of {requests} requests {summary.ok} were answered by 2xx: {summary}")
    if summary.data_bytes != requests * answer_size:
        raise BenchError(
            f"{requests} answers have {summary.data_bytes} bytes instead of {requests * answer_size}: "
            "some are errors or wrong"
        )


def parse_summary(text: str) -> Summary:
    """Read h2load's standard output."""
    finished, counted = _FINISHED.search(text), _REQUESTS.search(text)
    status, data = _STATUS.search(text), _DATA.search(text)
    if not (finished and counted and status and data):
        raise BenchError(f"h2load's output is not understood:\n{text}")
    return Summary(float(finished[1]), int(counted[1]), int(counted[2]), int(status[1]), int(data[1]))


def parse_log(text: str) -> list[int]:
    """Latencies in microseconds from a `--log-file`, in the order in which the requests ended."""
    latencies = []
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) < _LOG_FIELDS or not fields[1].startswith("2"):
            raise BenchError(f"a request failed: {line!r}")
        latencies.append(int(fields[2]))
    return latencies


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of values in ascending order."""
    if not ordered:
        raise BenchError("no latencies: fewer requests than streams")
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def execute(arguments: list[str]) -> tuple[str, float]:
    """Run h2load; returns what it printed and the CPU seconds it used. Raises BenchError where it fails."""
    before = _children_cpu_seconds()
    command = [find(), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"h2load did not end within {TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        raise BenchError(f"h2load failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout, _children_cpu_seconds() - before


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
