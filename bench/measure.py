"""What processes use: CPU time of all their threads, and memory as PSS, both from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tykpy.bench.errors import ProcessGoneError
from tykpy.ipc.title import ZYGOTE

PROC: Final = Path("/proc")
MIB: Final = 1024 * 1024
NS_PER_SECOND: Final = 1_000_000_000

_STAT_PARENT: Final = 1
_STAT_UTIME: Final = 11
_STAT_STIME: Final = 12
"""Places in /proc/PID/stat, counted behind the command's closing parenthesis."""
_STATM_RSS: Final = 1
"""In /proc/PID/statm, in pages."""
_IDLE_FIELDS: Final = (3, 4)
_GUEST_FROM: Final = 8
"""Places in the first line of /proc/stat, counted behind its name; guests' time is in the others already."""


class MachineTime(NamedTuple):
    """CPU time of the whole machine so far, in ns."""

    busy: int
    total: int


def family(pid: int, proc: Path = PROC) -> list[int]:
    """The process and all that descend from it, itself first.

    Raises ProcessGoneError where it has ended.
    """
    children: dict[int, list[int]] = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            children.setdefault(_parent_of(folder), []).append(int(folder.name))
    if not (proc / str(pid)).exists():
        raise ProcessGoneError(f"process {pid} has ended")
    found = [pid]
    for member in found:
        found += sorted(children.get(member, ()))
    return found


def broker_and_workers(pid: int, proc: Path = PROC) -> list[int]:
    """The family of a broker without the process that forks its workers, which does nothing while they serve.

    Raises ProcessGoneError.
    """
    return [member for member in family(pid, proc) if not _is_zygote(proc / str(member), pid)]


def cpu_ns(pids: Iterable[int], proc: Path = PROC) -> dict[int, int]:
    """CPU time of each process so far, in ns; raises ProcessGoneError where one has ended."""
    return {pid: _cpu_ns(proc / str(pid)) for pid in pids}


def pss_bytes(pid: int, proc: Path = PROC) -> int:
    """PSS of a process in bytes: a page that n processes share counts 1/n in each; raises ProcessGoneError.

    RSS, where each counts all, of a process that we may not look into: a broker, unless we are root.
    """
    folder = proc / str(pid)
    try:
        rollup = (folder / "smaps_rollup").read_text()
    except PermissionError:
        return int(_read(folder / "statm").split()[_STATM_RSS]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError(f"{folder} is gone: the process has ended") from None
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessGoneError(f"no PSS in /proc/{pid}/smaps_rollup")


def machine_time(proc: Path = PROC) -> MachineTime:
    """What all CPUs have done so far."""
    fields = [int(field) for field in _read(proc / "stat").split("\n", 1)[0].split()[1:]]
    total = sum(fields[:_GUEST_FROM])
    idle = sum(fields[place] for place in _IDLE_FIELDS)
    return MachineTime(_ticks_to_ns(total - idle), _ticks_to_ns(total))


def _parent_of(folder: Path) -> int:
    try:
        return int(_stat_fields(folder)[_STAT_PARENT])
    except ProcessGoneError:
        return 0


def _is_zygote(folder: Path, broker: int) -> bool:
    # What it has forked has its title too for a moment.
    try:
        title = (folder / "cmdline").read_bytes().rstrip(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return title == ZYGOTE.encode() and _parent_of(folder) == broker


def _cpu_ns(folder: Path) -> int:
    # schedstat counts in ns but only living threads; stat counts in ticks of 10 ms.
    try:
        stats = [_schedstat(thread) for thread in (folder / "task").iterdir()]
    except FileNotFoundError:
        raise ProcessGoneError(f"{folder} is gone: the process has ended") from None
    if stats and all(stats):
        return sum(int(text.split()[0]) for text in stats)
    fields = _stat_fields(folder)
    return _ticks_to_ns(int(fields[_STAT_UTIME]) + int(fields[_STAT_STIME]))


def _schedstat(thread: Path) -> str:
    try:
        return (thread / "schedstat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # the kernel does not keep it, or the thread has just ended


def _stat_fields(folder: Path) -> list[str]:
    return _read(folder / "stat").rpartition(")")[2].split()


def _ticks_to_ns(ticks: int) -> int:
    return ticks * NS_PER_SECOND // os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError(f"{path} is gone: the process has ended") from None
    except PermissionError:
        raise ProcessGoneError(f"{path} may not be read by this user") from None
