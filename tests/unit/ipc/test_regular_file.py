"""Files that are regular are read; others are refused at once."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tykpy.ipc.regular_file import read_at_most, read_regular


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


OTHERS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a link to a FIFO": link_to_fifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/ptmx"),
    "a socket": listen,
    "a folder": Path.mkdir,
    "a loop of links": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    OTHERS[kind](tmp_path / "it")
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match="it'"):
        read_regular(tmp_path / "it")
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("path", ["/dev/zero", __file__])
def test_more_than_the_limit_is_refused(path: str) -> None:
    with pytest.raises(OSError, match="larger than 100 bytes"):
        read_at_most(path, 100)


def test_a_pipe_can_be_read() -> None:
    """A shell's `<(command)` is the name of one."""
    reading, writing = os.pipe()
    os.write(writing, b"content")
    os.close(writing)
    assert read_at_most(f"/proc/self/fd/{reading}", 7) == b"content"
    os.close(reading)


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "it").symlink_to("file")
    assert read_regular(tmp_path / "it") == b"content"
