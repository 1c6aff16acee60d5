"""What processes use: CPU time of all their threads, and memory as PSS."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from tykpy.bench.errors import ProcessGoneError
from tykpy.ipc.title import ZYGOTE

MIB: Final = 1024 * 1024
NS_PER_SECOND: Final = 1_000_000_000
NS_PER_US: Final = 1_000


class MachineTime(NamedTuple):
    """CPU time of the whole machine since it booted, in ns."""

    busy: int
    total: int


def family(pid: int) -> list[int]:
    """Return a process and all its descendants, the process first; raises ProcessGoneError."""
    return [pid, *(child.pid for child in _children(pid, recursive=True))]


def broker_and_workers(pid: int) -> list[int]:
    """Return a broker's family without the zygote, which does nothing while workers serve; raises ProcessGoneError."""
    # A worker that was just forked still has the zygote's title, but is not the broker's own child.
    zygotes = {child.pid for child in _children(pid) if _title(child) == ZYGOTE}
    return [member for member in family(pid) if member not in zygotes]


def cpu_ns(pids: Iterable[int]) -> dict[int, int]:
    """Return the CPU time of each process so far, in ns; raises ProcessGoneError."""
    return {pid: _cpu_ns(pid) for pid in pids}


def pss_bytes(pid: int) -> int:
    """Return the PSS of a process, where a page shared by n processes counts 1/n in each; raises ProcessGoneError.

    Return the RSS, where shared pages count whole, if we may not look into the process: into a broker only root may.
    """
    try:
        process = psutil.Process(pid)
        try:
            return int(process.memory_full_info().pss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, FileNotFoundError) as error:
        raise _gone(pid) from error


def memory_mib(pids: Iterable[int]) -> list[float]:
    """Return the PSS of each process in MiB; raises ProcessGoneError."""
    return [pss_bytes(pid) / MIB for pid in pids]


def machine_time() -> MachineTime:
    """Return what all CPUs have done so far."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq + times.steal  # user includes guests
    return MachineTime(int(busy * NS_PER_SECOND), int((busy + times.idle + times.iowait) * NS_PER_SECOND))


def usable_cpus() -> int:
    """Return the number of CPUs that this process and its children may use."""
    return len(os.sched_getaffinity(0))


def _children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=recursive))
    except psutil.NoSuchProcess as error:
        raise _gone(pid) from error


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def _cpu_ns(pid: int) -> int:
    # psutil counts in ticks of 10 ms; schedstat counts in ns, but only threads that are alive, and not on every kernel.
    try:
        stats = [_schedstat(thread) for thread in Path(f"/proc/{pid}/task").iterdir()]
        if stats and all(stats):
            return sum(int(text.split()[0]) for text in stats)
        times = psutil.Process(pid).cpu_times()
    except (FileNotFoundError, psutil.NoSuchProcess) as error:
        raise _gone(pid) from error
    return int((times.user + times.system) * NS_PER_SECOND)


def _schedstat(thread: Path) -> str:
    try:
        return (thread / "schedstat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _gone(pid: int) -> ProcessGoneError:
    return ProcessGoneError(f"process {pid} has ended")
