"""CPU time and memory of other processes, as /proc shows them to everybody (proc_pid_stat(5), proc_pid_statm(5))."""

import os
from pathlib import Path
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_UTIME: Final = 11
_STIME: Final = 12
"""Fields of `stat` after the name."""
_RESIDENT: Final = 1
"""Field of `statm`: pages."""


class ProcessUsage(NamedTuple):
    """What one process uses."""

    cpu_s: float
    """Since its start, of all its threads."""
    rss: int
    """Bytes in memory, including pages that it shares with others."""


def usage_of(pid: int) -> ProcessUsage | None:
    """Return what a process uses; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_bytes().split()[_RESIDENT])
        return ProcessUsage((int(stat[_UTIME]) + int(stat[_STIME])) / _TICKS, pages * _PAGE)
    except (OSError, IndexError):
        return None
