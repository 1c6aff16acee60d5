"""CPU time and memory of real processes."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from tykpy.bench import measure
from tykpy.bench.errors import ProcessGoneError
from tykpy.ipc.title import ZYGOTE


@pytest.fixture
def ended() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


@pytest.fixture
def parent() -> Iterator[psutil.Process]:
    """A process with a child and a grandchild, which sleep."""
    with subprocess.Popen(["sh", "-c", "sh -c 'sleep 60 & echo ready; wait' & wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        process = psutil.Process(shell.pid)
        children = process.children(recursive=True)
        yield process
        children[-1].kill()  # both shells end with it


def test_cpu_time_is_that_of_all_threads() -> None:
    pid, spun, end = os.getpid(), threading.Event(), threading.Event()
    used: list[int] = []

    def spin() -> None:
        sum(range(5_000_000))
        used.append(time.thread_time_ns())
        spun.set()
        end.wait()

    before = measure.cpu_ns([pid])[pid]
    thread = threading.Thread(target=spin)
    thread.start()
    spun.wait()
    assert measure.cpu_ns([pid])[pid] - before >= used[0]
    end.set()
    thread.join()


def test_without_schedstat_ticks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_schedstat", lambda thread: "")
    times = psutil.Process().cpu_times()
    used = measure.cpu_ns([os.getpid()])[os.getpid()]
    assert used >= int((times.user + times.system) * measure.NS_PER_SECOND)


def test_memory_is_pss_or_rss_if_pss_is_not_ours_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    pss = measure.pss_bytes(os.getpid())
    assert measure.memory_mib([os.getpid()])[0] == pytest.approx(pss / measure.MIB, rel=0.2)

    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert measure.pss_bytes(os.getpid()) > pss


def test_a_family_is_a_process_and_its_descendants(parent: psutil.Process) -> None:
    first, child, grandchild = measure.family(parent.pid)
    assert first == parent.pid
    assert psutil.Process(child).ppid() == parent.pid
    assert psutil.Process(grandchild).ppid() == child


def test_the_zygote_is_not_counted_but_its_children_are(
    parent: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, child, grandchild = measure.family(parent.pid)
    # A worker that was just forked still has the zygote's title.
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: [ZYGOTE])
    assert measure.broker_and_workers(parent.pid) == [parent.pid, grandchild]
    monkeypatch.undo()
    assert measure.broker_and_workers(parent.pid) == [parent.pid, child, grandchild]


def test_a_process_that_has_ended_is_an_error(ended: int) -> None:
    for look in (measure.pss_bytes, measure.family, measure.broker_and_workers, lambda pid: measure.cpu_ns([pid])):
        with pytest.raises(ProcessGoneError, match="has ended"):
            look(ended)


def test_the_machines_busy_time_is_part_of_its_time() -> None:
    assert 0 < measure.machine_time().busy < measure.machine_time().total
