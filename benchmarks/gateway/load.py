"""Drives a gateway over HTTP/1.1 with h2load, and reads what it measured."""

from pathlib import Path
from typing import NamedTuple

from benchmarks import h2load
from tykpy.bench.errors import BenchError

_STATUS, _MICROSECONDS = 1, 2
"""Fields of a line of h2load's log."""


class HttpLoad(NamedTuple):
    """One run."""

    rate: float
    """Answers with 200 per second."""
    errors: int
    """Other answers."""
    requests: int
    """Both together."""
    p50_us: float
    """Of the answers with 200, as `p99_us`."""
    p99_us: float
    cpu_us: float
    """The load generator's own CPU time per request."""


def run(url: str, clients: int, seconds: int, folder: Path) -> HttpLoad:
    """Have so many clients send one request after the other; raises BenchError where none is answered."""
    log = folder / "requests.log"
    log.unlink(missing_ok=True)
    _, cpu_seconds = h2load.execute(["--h1", "-c", str(clients), "-D", str(seconds), f"--log-file={log}", url])
    return read(log.read_text(), seconds, cpu_seconds)


def read(log: str, seconds: float, cpu_seconds: float) -> HttpLoad:
    """Make figures of the lines of a log."""
    lines = [line.split("\t") for line in log.splitlines()]
    right = sorted(int(line[_MICROSECONDS]) for line in lines if line[_STATUS] == "200")
    if not right:
        raise BenchError(f"of {len(lines)} requests none was answered with 200")
    return HttpLoad(
        rate=len(right) / seconds,
        errors=len(lines) - len(right),
        requests=len(lines),
        p50_us=h2load.percentile(right, 50),
        p99_us=h2load.percentile(right, 99),
        cpu_us=cpu_seconds / len(lines) * 1e6,
    )
