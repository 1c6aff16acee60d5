"""The process that forks workers, and brokers without one."""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.broker import PATIENCE, RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.ipc.title import ZYGOTE

FILES: Final = {"hooks.py": SOURCE}


def zygote_of(broker: RunningBroker) -> psutil.Process | None:
    """Return the broker's zygote, or None if there is none."""
    for child in psutil.Process(broker.pid).children():
        try:
            if " ".join(child.cmdline()) == ZYGOTE:
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def there_is(zygote: psutil.Process | None) -> psutil.Process:
    assert zygote is not None
    return zygote


def worker_of(broker: RunningBroker) -> int:
    """Return the process of the only worker that serves, or 0 if there is none."""
    rows = [row for row in broker.status()["workers"] if row["state"] == "ready"]
    return rows[0]["pid"] if rows else 0


def next_worker(broker: RunningBroker, before: int) -> psutil.Process:
    """Wait for the worker that replaces `before`; return its process."""
    wait_until(lambda: worker_of(broker) not in (0, before), lambda: broker.log)
    return psutil.Process(worker_of(broker))


def kill_worker(broker: RunningBroker) -> int:
    """Kill a worker that has answered: one that has not would be replaced later each time."""
    pid = int(broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"])
    os.kill(pid, signal.SIGKILL)
    return pid


def open_files(pid: int) -> dict[str, str]:
    """Return what the process has open, by descriptor."""
    folder = Path(f"/proc/{pid}/fd")
    return {number: os.readlink(folder / number) for number in os.listdir(folder)}


def kinds(pid: int) -> dict[str, str]:
    """Return the same without the inodes of sockets and pipes."""
    return {number: name.partition("[")[0] for number, name in open_files(pid).items()}


def test_workers_and_their_replacements_are_forked(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        zygote = there_is(zygote_of(broker))
        assert psutil.Process(worker_of(broker)).ppid() == zygote.pid
        assert next_worker(broker, kill_worker(broker)).ppid() == zygote.pid
        assert "was ended by SIGKILL" in broker.log


def test_a_forked_worker_inherits_no_other_descriptors(tmp_path: Path) -> None:
    with running_broker(tmp_path, workers=3, files=FILES) as broker:
        first, *others = (row["pid"] for row in broker.status()["workers"])
        assert all(kinds(other) == kinds(first) for other in others)
        common = set(open_files(first).values()) & set(open_files(there_is(zygote_of(broker)).pid).values())
        assert not [name for name in common if name.startswith(("socket:", "/memfd:", "anon_inode:"))]


def test_workers_may_open_as_many_files_as_their_broker(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path)
    broker.prefix = ["sh", "-c", 'ulimit -S -n 100 && exec "$@"', "sh"]
    with broker:
        limit = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
        assert limit[0] > 100
        assert resource.prlimit(worker_of(broker), resource.RLIMIT_NOFILE) == limit


def test_workers_survive_the_death_of_their_zygote(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        zygote, before = there_is(zygote_of(broker)), worker_of(broker)
        zygote.kill()
        broker.wait_for_log("the process that forks workers has ended: until there is another")
        assert worker_of(broker) == before
        after = next_worker(broker, kill_worker(broker))
        # Who adopts an orphan may have waited for it before the broker looks.
        assert "has ended, and how is not known" in broker.log or "was ended by SIGKILL" in broker.log
        wait_until(lambda: zygote_of(broker) not in (None, zygote), lambda: broker.log)
        assert after.is_running()
        # The next one may still be importing; whose child a worker is says when it has come.
        wait_until(
            lambda: next_worker(broker, kill_worker(broker)).ppid() == there_is(zygote_of(broker)).pid,
            lambda: broker.log,
        )
        assert broker.stop() == 0


def test_a_zygote_that_hangs_is_replaced(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        zygote = there_is(zygote_of(broker))
        zygote.suspend()
        before = kill_worker(broker)
        broker.wait_for_log("the zygote does not answer: timed out")
        next_worker(broker, before)
        assert not zygote.is_running()
        wait_until(lambda: zygote_of(broker) not in (None, zygote), lambda: broker.log)


def test_a_zygote_ends_with_its_broker(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        zygote = there_is(zygote_of(broker))
        zygote.suspend()
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait()
        assert not psutil.wait_procs([zygote], PATIENCE)[1]


def test_signals_of_a_terminal_leave_it_alone(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        zygote = there_is(zygote_of(broker))
        for number in (signal.SIGINT, signal.SIGHUP):
            zygote.send_signal(number)
        assert next_worker(broker, kill_worker(broker)).ppid() == zygote.pid


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


def start_and_wait(keeper: ZygoteKeeper, loop: asyncio.AbstractEventLoop, patience: float = PATIENCE) -> None:
    """Start a zygote and wait until it is ready or has failed."""
    decided = asyncio.Event()
    keeper.open()
    keeper.watch(loop, patience, decided.set)
    loop.run_until_complete(asyncio.wait_for(decided.wait(), PATIENCE))


def test_a_zygote_that_is_never_ready_is_not_needed(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(ZygoteKeeper()) as keeper, socket.socket() as no_pipe:
        os.dup2(no_pipe.fileno(), keeper.life.reader)  # cannot be opened anew
        start_and_wait(keeper, loop)
        assert "the process that forks workers has ended" in caplog.text
        assert keeper.fork("pipe:", ()) is None


def test_a_zygote_that_is_late_is_not_needed(loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture) -> None:
    with closing(ZygoteKeeper()) as keeper:
        start_and_wait(keeper, loop, patience=0)
        assert "the process that forks workers has ended" in caplog.text


def test_a_zygote_that_cannot_start_is_not_needed(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with closing(ZygoteKeeper()) as keeper:
        start_and_wait(keeper, loop)
        assert "cannot be started: [Errno 2] No such file or directory: '/nowhere'" in caplog.text
        assert keeper.fork("pipe:", ()) is None


def test_a_keeper_can_be_closed_while_its_zygote_starts(loop: asyncio.AbstractEventLoop) -> None:
    with closing(ZygoteKeeper()) as keeper:
        keeper.open()
        keeper.watch(loop, PATIENCE, lambda: pytest.fail("decided"))
