"""What processes use: CPU time of all their threads, and memory as PSS, both from /proc."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from benchmarks.errors import ServerError

PROC: Final = Path("/proc")
MIB: Final = 1024 * 1024
NS_PER_SECOND: Final = 1_000_000_000
NS_PER_US: Final = 1000

_STAT_UTIME: Final = 11
_STAT_STIME: Final = 12
"""Places in /proc/PID/stat, counted behind the command's closing parenthesis."""


class Cost(NamedTuple):
    """What the first process of a server and its children used, in one unit."""

    front: float
    children: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.front + self.children


def family(pid: int) -> list[int]:
    """The process and all that it started, itself first."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess as error:
        raise ServerError(f"process {pid} has ended") from error
    return [pid, *(child.pid for child in children)]


def cpu_ns(pids: Iterable[int], proc: Path = PROC) -> dict[int, int]:
    """CPU time of each process so far, in ns."""
    return {pid: _cpu_ns(proc / str(pid)) for pid in pids}


def cpu_per_request(before: dict[int, int], after: dict[int, int], requests: int) -> Cost:
    """CPU microseconds per request between two readings of the same family; its first process is the front."""
    used = [after[pid] - before[pid] for pid in before]
    return Cost(used[0] / requests / NS_PER_US, sum(used[1:]) / requests / NS_PER_US)


def memory(pids: list[int], proc: Path = PROC) -> Cost:
    """PSS in MiB: each page shared by n processes counts 1/n in each."""
    used = [pss_bytes(pid, proc) / MIB for pid in pids]
    return Cost(used[0], sum(used[1:]))


def pss_bytes(pid: int, proc: Path = PROC) -> int:
    """PSS of a process in bytes."""
    for line in _read(proc / str(pid) / "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ServerError(f"no PSS in /proc/{pid}/smaps_rollup")


def bare_interpreter_mib() -> float:
    """PSS of this Python with nothing imported, while everything else runs."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bare:
        assert bare.stdout is not None
        bare.stdout.readline()
        mib = pss_bytes(bare.pid) / MIB
        bare.communicate(b"\n")
    return mib


def _cpu_ns(folder: Path) -> int:
    # schedstat counts in ns but only living threads; stat counts in ticks of 10 ms.
    stats = [_read(thread / "schedstat") for thread in (folder / "task").iterdir()]
    if all(stats):
        return sum(int(text.split()[0]) for text in stats)
    fields = _read(folder / "stat").rpartition(")")[2].split()
    ticks = int(fields[_STAT_UTIME]) + int(fields[_STAT_STIME])
    return ticks * NS_PER_SECOND // os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        if path.name == "schedstat":
            return ""  # the kernel does not keep it, or the thread has just ended
        raise ServerError(f"{path} is gone: the process has ended") from None
