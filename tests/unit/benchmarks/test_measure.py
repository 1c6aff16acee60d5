"""CPU time and memory of processes, read from a /proc."""

import os
import threading
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.errors import ServerError
from benchmarks.measure import Cost

STAT = "{pid} (a ) b) S 1 1 1 0 -1 4194560 100 0 0 0 {utime} {stime} 0 0 20 0 3 0 100 0 0"


def fake_process(proc: Path, pid: int, *, threads: dict[int, int] | None, utime: int = 0, stime: int = 0) -> None:
    """`threads`: CPU ns by thread; None for a kernel without schedstat."""
    folder = proc / str(pid)
    for tid, ns in (threads or {pid: 0}).items():
        (folder / "task" / str(tid)).mkdir(parents=True)
        if threads is not None:
            (folder / "task" / str(tid) / "schedstat").write_text(f"{ns} 55 3\n")
    (folder / "stat").write_text(STAT.format(pid=pid, utime=utime, stime=stime))
    (folder / "smaps_rollup").write_text(
        f"559173c25000-7ffc67330000 ---p 0 00:00 0 [rollup]\nRss: 9000 kB\nPss: {pid * 1024} kB\nPss_Anon: 1 kB\n"
    )


def test_cpu_time_is_that_of_all_threads(tmp_path: Path) -> None:
    fake_process(tmp_path, 7, threads={7: 1_000, 8: 20_000, 9: 300_000})
    assert measure.cpu_ns([7], tmp_path) == {7: 321_000}


def test_without_schedstat_ticks_are_counted(tmp_path: Path) -> None:
    fake_process(tmp_path, 7, threads=None, utime=40, stime=2)
    assert measure.cpu_ns([7], tmp_path) == {7: 42 * 1_000_000_000 // os.sysconf("SC_CLK_TCK")}


def test_cost_per_request_is_told_apart_by_process() -> None:
    before = {10: 1_000_000, 11: 5_000_000, 12: 0}
    after = {10: 3_000_000, 11: 6_000_000, 12: 500_000, 13: 99}
    cost = measure.cpu_per_request(before, after, 100)
    assert cost == Cost(20.0, 15.0)
    assert cost.total == 35.0


def test_memory_is_the_proportional_share(tmp_path: Path) -> None:
    for pid in (3, 4, 5):
        fake_process(tmp_path, pid, threads={pid: 0})
    assert measure.memory([3, 4, 5], tmp_path) == Cost(3.0, 9.0)


def test_a_process_that_has_ended_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="has ended"):
        measure.pss_bytes(7, tmp_path)


def test_the_real_proc_is_understood() -> None:
    pid = os.getpid()
    before = measure.cpu_ns([pid])
    spin = threading.Thread(target=lambda: sum(range(2_000_000)))
    spin.start()
    spin.join()
    sum(range(2_000_000))
    after = measure.cpu_ns([pid])
    assert after[pid] > before[pid]
    assert measure.pss_bytes(pid) > measure.MIB
    assert measure.family(pid)[0] == pid
    assert measure.bare_interpreter_mib() > 1
