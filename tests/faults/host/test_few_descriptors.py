"""A broker that may open few files, and peers that connect endlessly: dead workers are replaced all the same."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.hooks import SOURCE
from tests.support.peers.rpc_client import PipelinedRpcClient

WORKERS: Final = 2
FILES: Final = 80
"""What a broker of two workers holds (67), and fewer than it takes connections: those it refuses stay for a second."""
CROWD: Final = 60
STAY: Final = 1.0
"""Seconds for which one of the crowd keeps its connection, whatever the broker says."""
KILLS: Final = 3


class Crowd:
    """Peers that connect, stay, and connect again, until the end of the block."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._dial) for _ in range(CROWD)]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _dial(self) -> None:
        while not self._over.is_set():
            with socket.socket(socket.AF_UNIX) as peer, contextlib.suppress(OSError):
                peer.setblocking(False)
                peer.connect(self._path)
                self._over.wait(STAY)


@contextlib.contextmanager
def broker_of_few_files(folder: Path, event_loop: str) -> Iterator[RunningBroker]:
    broker = RunningBroker(folder, "--event-loop", event_loop, workers=WORKERS)
    broker.add_file("hooks.py", SOURCE)
    broker.prefix = ["sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh"]
    with broker:
        yield broker


def kill_one(broker: RunningBroker, admin: PipelinedRpcClient, before: int) -> None:
    """Kill a worker after `before` others, and wait for the next one."""
    os.kill(admin.call("status")["workers"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: is_replaced(admin, before + 1), lambda: broker.log)


def is_replaced(admin: PipelinedRpcClient, restarts: int) -> bool:
    """Say whether this many workers were replaced and all are ready."""
    status = admin.call("status")
    return (status["restarts"], [row["state"] for row in status["workers"]]) == (restarts, ["ready"] * WORKERS)


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
def test_connections_leave_descriptors_for_workers(tmp_path: Path, event_loop: str) -> None:
    with broker_of_few_files(tmp_path, event_loop) as broker, broker.admin() as admin:
        assert f"(--max-connections): of {FILES} files that may be open" in broker.log
        with Crowd(broker.socket):
            broker.wait_for_log("no descriptor can be had")
            for number in range(KILLS):
                kill_one(broker, admin, number)
        assert "did not start" not in broker.log


@pytest.mark.parametrize("files", [10, 20, 63])
def test_too_few_descriptors_for_any_broker_are_an_error(tmp_path: Path, files: int) -> None:
    broker = RunningBroker(tmp_path).unready()
    broker.prefix = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]
    with broker:
        assert broker.wait() == 2
        assert f"{files} files may be open, a broker needs at least 64" in broker.log
        assert "Traceback" not in broker.log
