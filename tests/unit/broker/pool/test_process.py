"""How a process ended, in words, and how much memory it has."""

import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tykpy.broker.pool.process import WorkerProcess, describe_end, oom_kills, shown_exit_code
from tykpy.broker.pool.recycling import memory_of

MIB = 1024 * 1024
MAPS_ALL_OF_IT = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
    for offset in range(0, len(pages), mmap.PAGESIZE):
        pages[offset] = 2
    print("done", flush=True)
    sys.stdin.read()
"""
PATIENCE_MS = 30_000
"""Milliseconds until a wait on a process is a failure."""


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until the end of the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_end(process: WorkerProcess) -> None:
    poll = select.poll()
    poll.register(process.pidfd, select.POLLIN)
    assert poll.poll(PATIENCE_MS)


@pytest.mark.parametrize(
    ("code", "words", "by_itself"),
    [
        (0, "exited with code 0", True),
        (1, "exited with code 1", True),
        (83, "exited with code 83 (cannot start)", True),
        (84, "exited with code 84 (its ring is damaged)", True),
        (85, "exited with code 85 (an exception that nobody caught; its traceback is above)", True),
        (9, "exited with code 9", True),
        (-signal.SIGSEGV, "was ended by SIGSEGV", True),
        (-signal.SIGABRT, "was ended by SIGABRT", True),
        (-signal.SIGKILL, "was ended by SIGKILL", False),
        (-signal.SIGTERM, "was ended by SIGTERM", False),
        (-63, "was ended by signal 63", False),
    ],
)
def test_ends_of_processes_are_described(code: int, words: str, by_itself: bool) -> None:
    assert describe_end(code)[:2] == (words, by_itself)


@pytest.mark.parametrize(("command", "code"), [("kill -KILL $$", -signal.SIGKILL), ("exit 3", 3), ("exit 0", None)])
def test_the_exit_code_is_known_before_reaping(command: str, code: int | None) -> None:
    with subprocess.Popen(["sh", "-c", command]) as process:
        assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert shown_exit_code(process.pid) == code
    assert shown_exit_code(process.pid) is None


def test_the_ending_is_known_before_reaping() -> None:
    waits: list[int] = []
    with subprocess.Popen(["sh", "-c", "kill -KILL $$"]) as process:

        def wait() -> int:
            waits.append(process.pid)
            return process.wait()

        worker = WorkerProcess(process.pid, wait)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert (worker.ending().words, waits) == ("was ended by SIGKILL", [])
        for _ in range(2):
            worker.release()
        assert (waits, worker.pidfd) == ([process.pid], -1)


def test_an_out_of_memory_kill_is_blamed_on_hooks() -> None:
    ending = describe_end(-signal.SIGKILL, out_of_memory=True)
    assert ending == ("was ended by SIGKILL (out of memory: the machine or its container)", True, True)


def test_the_kernels_count_of_oom_kills_is_read() -> None:
    assert oom_kills() >= 0


def test_a_stopped_process_is_recognised(bystander: subprocess.Popen[bytes]) -> None:
    process = WorkerProcess(bystander.pid, bystander.wait)
    assert not process.is_stopped
    bystander.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, bystander.pid, os.WSTOPPED | os.WNOWAIT)
    assert process.is_stopped
    process.kill()
    wait_for_end(process)
    process.release()
    assert not process.is_stopped


def test_pss_is_read_only_above_the_limit() -> None:
    with mmap.mmap(-1, 64 * MIB) as pages:
        for offset in range(0, len(pages), 4096):
            pages[offset] = 1
        bound = memory_of(os.getpid(), 1 << 60)
        share = memory_of(os.getpid(), 0)
    assert 64 * MIB < share <= bound + MIB


def test_shared_memory_counts_in_part(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    path.write_bytes(bytes(64 * MIB))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        for offset in range(0, len(pages), mmap.PAGESIZE):
            pages[offset] = 1
        command = [sys.executable, "-c", MAPS_ALL_OF_IT, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert memory_of(os.getpid(), 0) <= memory_of(os.getpid(), 1 << 60) - 30 * MIB
            other.communicate()


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert memory_of(2**22 + 1, 0) == 0


def test_signals_never_reach_a_recycled_pid(bystander: subprocess.Popen[bytes]) -> None:
    worker = WorkerProcess.execute([], [])
    descriptor = worker.pidfd
    wait_for_end(worker)
    worker.kill()
    assert worker.reap()[:2] == ("exited with code 64 (not started by a broker)", True)
    # The number of its descriptor is another process's now.
    other = os.pidfd_open(bystander.pid)
    try:
        assert other == descriptor
        worker.kill()
        worker.dump()
    finally:
        os.close(other)
    bystander.communicate(b"\n")
    assert bystander.returncode == 0, "a signal has reached it"


@pytest.mark.parametrize(
    ("ended_since", "looks", "words"),
    [
        (0, 0, "was ended by SIGKILL"),
        (1, 0, "was ended by SIGKILL (out of memory: the machine or its container)"),
        (1, 1, "was ended by SIGKILL (out of memory: the machine or its container)"),
        (1, 2, "was ended by SIGKILL"),
    ],
)
def test_oom_kills_are_told_from_other_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_since: int, looks: int, words: str
) -> None:
    """Two checks later the kernel's kill was of another process."""
    counters = tmp_path / "vmstat"
    counters.write_text("oom_kill 7\n")
    monkeypatch.setattr("tykpy.broker.pool.process._VMSTAT", counters)
    # Python imports this first, so that it is there to be killed.
    (tmp_path / "sitecustomize.py").write_text("import signal\nsignal.pause()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = WorkerProcess.execute([], [])
    worker.kill()
    wait_for_end(worker)
    counters.write_text(f"oom_kill {7 + ended_since}\n")
    for _ in range(looks):
        worker.note_oom_kills(oom_kills())
    assert worker.reap().words == words
