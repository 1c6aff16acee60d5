"""CPU time and memory of processes, read from a /proc."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tykpy.bench import measure
from tykpy.bench.errors import ProcessGoneError

STAT = "{pid} (a ) b) S {parent} 1 1 0 -1 4194560 100 0 0 0 {utime} {stime} 0 0 20 0 3 0 100 0 0"


def fake_process(
    proc: Path, pid: int, *, threads: dict[int, int] | None, utime: int = 0, stime: int = 0, parent: int = 1
) -> None:
    """`threads`: CPU ns by thread; None for a kernel without schedstat."""
    folder = proc / str(pid)
    for tid, ns in (threads or {pid: 0}).items():
        (folder / "task" / str(tid)).mkdir(parents=True)
        if threads is not None:
            (folder / "task" / str(tid) / "schedstat").write_text(f"{ns} 55 3\n")
    (folder / "stat").write_text(STAT.format(pid=pid, parent=parent, utime=utime, stime=stime))
    (folder / "smaps_rollup").write_text(
        f"559173c25000-7ffc67330000 ---p 0 00:00 0 [rollup]\nRss: 9000 kB\nPss: {pid * 1024} kB\nPss_Anon: 1 kB\n"
    )


def test_cpu_time_is_that_of_all_threads(tmp_path: Path) -> None:
    fake_process(tmp_path, 7, threads={7: 1_000, 8: 20_000, 9: 300_000})
    assert measure.cpu_ns([7], tmp_path) == {7: 321_000}


def test_without_schedstat_ticks_are_counted(tmp_path: Path) -> None:
    fake_process(tmp_path, 7, threads=None, utime=40, stime=2)
    assert measure.cpu_ns([7], tmp_path) == {7: 42 * 1_000_000_000 // os.sysconf("SC_CLK_TCK")}


def test_memory_is_the_proportional_share(tmp_path: Path) -> None:
    fake_process(tmp_path, 3, threads={3: 0})
    assert measure.pss_bytes(3, tmp_path) == 3 * measure.MIB


def test_memory_is_rss_where_the_share_is_not_for_us_to_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_process(tmp_path, 3, threads={3: 0})
    (tmp_path / "3" / "statm").write_text("900 70 30 1 0 500 0\n")
    read = Path.read_text

    def read_text(path: Path, *rest: Any, **more: Any) -> str:
        if path.name == "smaps_rollup":
            raise PermissionError(path)
        return read(path, *rest, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert measure.pss_bytes(3, tmp_path) == 70 * os.sysconf("SC_PAGE_SIZE")


def test_a_family_is_the_process_and_all_that_descend_from_it(tmp_path: Path) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 1), (13, 11), (14, 10), (15, 12)):
        fake_process(tmp_path, pid, threads={pid: 0}, parent=parent)
    (tmp_path / "self").mkdir()
    assert measure.family(10, tmp_path) == [10, 11, 14, 13]


def test_who_forks_workers_is_none_of_them(tmp_path: Path) -> None:
    command = {10: b"tykpy\0broker\0", 11: b"tykpy: zygote\0"}
    for pid, parent, runs in ((10, 1, 10), (11, 10, 11), (12, 11, 11), (13, 11, 11), (14, 10, 10)):
        fake_process(tmp_path, pid, threads={pid: 0}, parent=parent)
        (tmp_path / str(pid) / "cmdline").write_bytes(command[runs])
    fake_process(tmp_path, 15, threads={15: 0}, parent=10)
    assert measure.broker_and_workers(10, tmp_path) == [10, 14, 15, 12, 13]


def test_a_process_that_has_ended_is_an_error(tmp_path: Path) -> None:
    for look in (measure.pss_bytes, measure.family, lambda pid, proc: measure.cpu_ns([pid], proc)):
        with pytest.raises(ProcessGoneError, match="has ended"):
            look(7, tmp_path)


def test_the_machines_time_leaves_idle_and_waiting_out(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  10 20 30 400 50 6 7 8 900 900\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert measure.machine_time(tmp_path) == (81 * tick, 531 * tick)


def test_the_real_proc_is_understood() -> None:
    pid = os.getpid()
    before = measure.cpu_ns([pid])
    spin = threading.Thread(target=lambda: sum(range(2_000_000)))
    spin.start()
    spin.join()
    sum(range(2_000_000))
    assert measure.cpu_ns([pid])[pid] > before[pid]
    assert measure.pss_bytes(pid) > measure.MIB
    assert 0 < measure.machine_time().busy < measure.machine_time().total
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in measure.family(pid)
        child.communicate(b"\n")
