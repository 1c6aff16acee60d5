"""Connections to a Unix socket whose queue is full."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tykpy.client.unix import connect_unix


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket with a full queue, at `socket` in the working directory."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as peers:
        listener.bind("socket")
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                peer = peers.enter_context(socket.socket(socket.AF_UNIX))
                peer.setblocking(False)
                peer.connect("socket")
        yield listener


def test_a_connection_waits_for_a_place(listener: socket.socket) -> None:
    def accept() -> None:
        with listener.accept()[0], listener.accept()[0] as peer:
            peer.sendall(b"hello")

    thread = threading.Thread(target=accept)
    thread.start()
    with connect_unix("socket", 30) as client:
        assert client.gettimeout() == 30
        assert client.recv(5) == b"hello"
    thread.join()


@pytest.mark.parametrize("timeout", [1e-9, 0.05])
def test_waiting_ends(listener: socket.socket, timeout: float) -> None:
    with pytest.raises(TimeoutError, match="nobody accepted the connection within"):
        connect_unix("socket", timeout)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect_unix(tmp_path / "none", 1)
