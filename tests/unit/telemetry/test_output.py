"""A log whose reader stalls, fails or is gone costs records, and nobody's time; real processes and descriptors."""

import fcntl
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

from tykpy.telemetry.output import MAX_BYTES

PATIENCE: Final = 30.0
PROCESS: Final = """
    import os, sys, threading
    from tykpy.telemetry import log
    log.open_log(log.Source("worker", 1))
    log.configure_log("info", "console")
    own = log.Log("own")
    def tell(text):
        os.write(1, text.encode() + b"\\n")
"""
LOST: Final = re.compile(rb"tykpy\.process: ([0-9,]+) records of this log are lost: (.*)")


@contextmanager
def running(body: str, stderr: int | None, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process with this code, whose standard output says how far it is."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", dedent(PROCESS) + dedent(body)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=0,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


def lost(text: bytes) -> int:
    return sum(int(count.replace(b",", b"")) for count, _ in LOST.findall(text))


def read_all(descriptor: int) -> bytes:
    parts = []
    try:
        while part := os.read(descriptor, 65_536):
            parts.append(part)
    except OSError:
        pass  # a terminal whose other end is closed
    return b"".join(parts)


def pipe() -> tuple[int, int]:
    return os.pipe()


def stream() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def terminal() -> tuple[int, int]:
    return pty.openpty()


@pytest.mark.parametrize("kind", [pipe, stream, terminal])
def test_a_stalled_reader_blocks_no_thread_that_logs(kind: Callable[[], tuple[int, int]]) -> None:
    """All records are read afterwards, or counted in one that says so."""
    reader, writer = kind()
    body = """
        for number in range(20_000):
            own.error("record %d of many", number)
        tell("not stopped")
        sys.stdin.readline()
        own.error("the last record")
    """
    with running(body, writer) as process:
        os.close(writer)
        assert heard(process) == "not stopped"
        tell(process)
        text = read_all(reader)
        assert process.wait(PATIENCE) == 0
    os.close(reader)
    kept = re.findall(rb"record (\d+) of many", text)
    assert kept == sorted(kept, key=int)
    assert 0 < len(kept) < 20_000
    assert len(kept) + lost(text) + text.count(b"the last record") == 20_001
    assert LOST.search(text)[2].strip() == b"nobody read them in time"  # type: ignore[index]


def test_what_waits_is_bounded_in_bytes() -> None:
    reader, writer = os.pipe()
    body = """
        shown = []
        log.show_lost_records(shown.append)
        for _ in range(1_900):
            own.error("x" * 9_000)
        tell(f"{log.lost_records()} {shown[-1]}")
        sys.stdin.readline()
    """
    with running(body, writer) as process:
        os.close(writer)
        total, shown = map(int, heard(process).split())
        assert total == shown > 1_000
        tell(process)
        text = read_all(reader)
    os.close(reader)
    assert lost(text) > 1_000
    assert len(text) < 2 * MAX_BYTES


def test_the_end_waits_only_a_while_for_the_reader() -> None:
    reader, writer = os.pipe()
    body = """
        for _ in range(5_000):
            own.error("x" * 100)
        tell("not stopped")
    """
    with running(body, writer) as process:
        os.close(writer)
        assert heard(process) == "not stopped"
        assert process.wait(PATIENCE) == 0
    os.close(reader)


def test_a_closed_log_pipe_ends_no_process() -> None:
    reader, writer = os.pipe()
    body = """
        own.error("before")
        tell("written")
        sys.stdin.readline()
        for _ in range(10):
            own.error("after")
            print("printed", file=sys.stderr) if sys.stdin.closed else None
        tell("not ended")
    """
    with running(body, writer) as process:
        os.close(writer)
        assert heard(process) == "written"
        os.close(reader)
        tell(process)
        assert heard(process) == "not ended"
        assert process.wait(PATIENCE) == 0


def test_a_full_disk_is_reported_when_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    body = f"""
        import resource
        from pathlib import Path
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log.configure_log("info", "console", Path({str(path)!r}))
        own.error("before")
        # The kernel refuses to let the file grow: as on a full disk, with another error.
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (Path({str(path)!r}).stat().st_size + 30, limit[1]))
        for _ in range(5):
            own.error("refused")
        done = threading.Event()
        log._process.output.run(done.set)
        done.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        own.error("again")
    """
    with running(body, subprocess.PIPE) as process:
        assert process.wait(PATIENCE) == 0
    text = path.read_bytes()
    assert lost(text) == 5
    assert b"File too large" in text
    assert b": again" in text.splitlines()[-2]
    assert all(line[:2] == b"20" for line in text.splitlines())


def test_records_of_a_full_disk_are_counted() -> None:
    with (
        Path("/dev/full").open("wb") as full,
        running('own.error("lost")\ntell("not ended")', full.fileno()) as process,
    ):
        assert heard(process) == "not ended"
        assert process.wait(PATIENCE) == 0


def test_threads_do_not_mix_their_records() -> None:
    body = """
        def write(name):
            for _ in range(300):
                own.error(name * 6_000)
        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    reader, writer = os.pipe()
    with running(body, writer) as process:
        os.close(writer)
        text = read_all(reader)
        assert process.wait(PATIENCE) == 0
    os.close(reader)
    records = re.findall(rb"^20\S+ \S+ ERROR   \[\d+\] own: (a{6000}|b{6000}|c{6000}|d{6000})$", text, re.MULTILINE)
    assert len(records) + lost(text) == 1_200
    assert len(records) + len(LOST.findall(text)) == len(text.splitlines())


def test_a_descriptor_that_others_made_nonblocking_loses_nothing() -> None:
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    body = """
        for number in range(1_500):
            own.error("record")
        tell("written")
    """
    with running(body, writer) as process:
        os.close(writer)
        assert heard(process) == "written"
        text = read_all(reader)
        assert process.wait(PATIENCE) == 0
    os.close(reader)
    assert text.count(b"own: record\n") == 1_500


def test_a_forked_child_writes_its_own_records_only() -> None:
    """Also one forked while records wait, and while a thread holds the writer's lock."""
    reader, writer = os.pipe()
    body = """
        for number in range(1_500):
            own.error("of the parent %d", number)
        pid = os.fork()
        if pid == 0:
            tell("forked")
            own.error("of the child")
            own.error("of the child, again")
            os._exit(0)
        os.waitpid(pid, 0)
        own.error("the end")
    """
    with running(body, writer) as process:
        os.close(writer)
        assert heard(process) == "forked"
        text = read_all(reader)
        assert process.wait(PATIENCE) == 0
    os.close(reader)
    assert len(re.findall(rb"own: of the parent \d+$", text, re.MULTILINE)) == 1_500
    assert text.count(b"own: of the child\n") == text.count(b"own: of the child, again\n") == 1
    assert text.count(b"own: the end\n") == 1


def test_no_record_gets_into_a_file_that_has_the_number_of_stderr(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    body = f"""
        os.closerange(1, 3)
        own.error("first")
        files = [open({str(tmp_path / "file")!r}, "a") for _ in range(2)]
        own.error("second")
    """
    with running(body, writer) as process:
        os.close(writer)
        text = read_all(reader)
        assert process.wait(PATIENCE) == 0
    os.close(reader)
    assert re.findall(rb"own: (.*)\n", text) == [b"first", b"second"]
    assert not (tmp_path / "file").read_bytes()


def test_a_forked_child_may_close_all_and_redirect_its_streams(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    body = f"""
        pid = os.fork()
        if pid == 0:
            os.closerange(1, 1_000)
            files = [open({str(tmp_path)!r} + f"/{{number}}", "a") for number in range(1, 30)]
            own.error("of the child")
            os._exit(0)
        os.waitpid(pid, 0)
    """
    with running(body, writer) as process:
        os.close(writer)
        assert b"of the child" not in read_all(reader)
        assert process.wait(PATIENCE) == 0
    os.close(reader)
    assert [path.name for path in tmp_path.iterdir() if path.read_bytes()] == ["2"]


def test_what_is_written_before_a_crash_is_kept() -> None:
    reader, writer = os.pipe()
    with running('own.error("the last words")\nos.kill(os.getpid(), 9)', writer) as process:
        os.close(writer)
        assert b"own: the last words\n" in read_all(reader)
        assert process.wait(PATIENCE) == -9
    os.close(reader)


def test_a_finalizer_may_log_while_a_record_is_written() -> None:
    """From any line of the writer, as the garbage collector runs finalizers."""
    reader, writer = os.pipe()
    body = """
        inner = False
        def trace(frame, event, _argument):
            global inner
            if event == "line" and not inner:
                inner = True
                own.error("inner")
                inner = False
            return trace
        sys.settrace(trace)
        for _ in range(20):
            own.error("outer")
        sys.settrace(None)
    """
    with running(body, writer) as process:
        os.close(writer)
        text = read_all(reader)
        assert process.wait(PATIENCE) == 0
    os.close(reader)
    assert text.count(b"own: outer\n") == 20
    assert text.count(b"own: inner\n") > 100
