"""Several real processes on one SQLite store: one is killed while it writes, a disk is full, and others go on."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tykpy.workers.storage.sqlite import FILE_NAME, WAL_LIMIT_BYTES, SQLiteStorage

WRITERS = 4
REPORT_EVERY = 20
"""A writer tells its count once in so many values."""

WRITER = f"""
import itertools, select, sys
from pathlib import Path
from tykpy.workers.storage.sqlite import SQLiteStorage
storage = SQLiteStorage(Path(sys.argv[1]))
for number in itertools.count(1):
    storage.store(sys.argv[2], b"%d" % number, 0)
    storage.store(f"{{sys.argv[2]}}-{{number % 50}}", b"v" * 500, 0)
    if number % {REPORT_EVERY} == 0:
        ending = select.select([sys.stdin], [], [], 0)[0]
        print(number, flush=True)
        if ending:
            break
storage.close()
"""

GROWER = """
import sys
from pathlib import Path
from tykpy.workers.storage.sqlite import SQLiteStorage
storage = SQLiteStorage(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    storage.store(f"{sys.argv[2]}-{number}-{number * 7919 % 10007}", b"v" * 500, 0)
"""

FULL_DISK = """
import logging, resource, sys
from pathlib import Path
from tykpy.workers.storage.sqlite import SQLiteStorage
logging.basicConfig(format="%(message)s")
storage = SQLiteStorage(Path(sys.argv[1]))
storage.store("before", b"value", 0)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
for number in range(100):
    storage.store(f"big-{number}", b"v" * 10_000, 0)
assert storage.fetch("before") == b"value"
assert storage.fetch("big-99") == b""
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
storage.store("after", b"value", 0)
assert storage.fetch("after") == b"value"
storage.close()
"""


class Writer:
    """A process that stores ever higher numbers under its name, until it is told to end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self._stdin, self._stdout, self._stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def reported(self, times: int) -> int:
        """Wait for so many reports; return the last number."""
        lines = [self._stdout.readline() for _ in range(times)]
        assert all(lines), self._stderr.read()
        return int(lines[-1])

    def end(self) -> int:
        """Tell it to end; return the last number it wrote, which it reports after it is told."""
        with self._stdin as stdin:
            stdin.write("end\n")
        lines = self._stdout.read().splitlines()
        assert (self.process.wait(), self._stderr.read()) == (0, "")
        return int(lines[-1])


@contextmanager
def writer(folder: Path, name: str) -> Iterator[Writer]:
    started = Writer(folder, name)
    with started.process:
        try:
            yield started
        finally:
            if started.process.poll() is None:
                started.process.kill()


def test_the_others_go_on_when_a_writer_is_killed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        writers = [stack.enter_context(writer(tmp_path, f"w{index}")) for index in range(WRITERS)]
        for each in writers:
            each.reported(3)
        killed, *others = writers
        acknowledged = killed.reported(1)
        killed.process.kill()
        for each in others:
            each.reported(5)
        last = {each.name: each.end() for each in others}
    storage = SQLiteStorage(tmp_path)
    assert int(storage.fetch(killed.name)) >= acknowledged
    assert {name: int(storage.fetch(name)) for name in last} == last
    storage.close()
    _assert_sound(tmp_path)


@pytest.mark.parametrize("_run", range(3))
def test_all_writers_are_killed_at_once(tmp_path: Path, _run: int) -> None:
    with ExitStack() as stack:
        writers = [stack.enter_context(writer(tmp_path, f"w{index}")) for index in range(WRITERS)]
        acknowledged = {each.name: each.reported(2) for each in writers}
        for each in writers:
            os.kill(each.process.pid, signal.SIGKILL)
    storage = SQLiteStorage(tmp_path)
    for name, number in acknowledged.items():
        assert int(storage.fetch(name)) >= number
    storage.close()
    _assert_sound(tmp_path)


def test_a_paused_writer_does_not_hold_readers(tmp_path: Path) -> None:
    with writer(tmp_path, "paused") as paused:
        acknowledged = paused.reported(1)
        os.kill(paused.process.pid, signal.SIGSTOP)
        storage = SQLiteStorage(tmp_path)
        assert int(storage.fetch("paused")) >= acknowledged
        storage.close()


def test_many_writers_of_new_keys_do_not_make_the_wal_grow(tmp_path: Path) -> None:
    """Checkpoints that let others write meanwhile never catch up with four of them: more than 70 MiB within seconds."""
    most = 0
    with ExitStack() as stack:
        command = [sys.executable, "-c", GROWER, str(tmp_path)]
        writers = [stack.enter_context(subprocess.Popen([*command, str(name), "6000"])) for name in range(6)]
        while any(process.poll() is None for process in writers):
            with suppress(FileNotFoundError):
                most = max(most, (tmp_path / f"{FILE_NAME}-wal").stat().st_size)
            time.sleep(0.002)
    assert [process.returncode for process in writers] == [0] * len(writers)
    assert 0 < most <= 3 * WAL_LIMIT_BYTES
    _assert_sound(tmp_path)


def test_a_full_disk_is_reported_until_there_is_room(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("store_data is lost") == 1, run.stderr
    assert f"storage file {tmp_path / FILE_NAME}: OperationalError:" in run.stderr


def _assert_sound(folder: Path) -> None:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
