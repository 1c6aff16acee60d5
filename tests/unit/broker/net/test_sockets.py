"""Listening sockets: addresses, permissions, stale files, inherited sockets."""

import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from tykpy.broker.errors import AddressError, ConfigError, ListenError
from tykpy.broker.net import sockets
from tykpy.broker.net.sockets import ListeningSocket, SocketOptions, inherited_sockets, listen


@pytest.mark.parametrize("form", ["unix://{}", "unix:{}"])
def test_a_unix_socket(tmp_path: Path, form: str) -> None:
    path = tmp_path / "s"
    listening = listen(form.format(path), SocketOptions(mode=0o660))
    assert listening.is_unix
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
    listening.close()
    assert not path.exists()
    listening.close()


def test_sockets_are_private_by_default(tmp_path: Path) -> None:
    listening = listen(f"unix://{tmp_path}/s")
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    listening.close()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_permissions_are_set_before_anybody_can_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Until it listens, the kernel refuses every connection."""
    seen: list[tuple[int, int]] = []
    plain = socket.socket

    class Watched(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            status = os.stat(self.getsockname())
            seen.append((stat.S_IMODE(status.st_mode), status.st_gid))
            with plain(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
                early.connect(self.getsockname())
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Watched)
    previous = os.umask(0)
    try:
        listening = listen(f"unix://{tmp_path}/s", SocketOptions(mode=mode, group=str(os.getgid())))
    finally:
        os.umask(previous)
    assert seen == [(mode, os.getgid())]
    listening.close()


def test_permissions_are_not_set_on_a_replaced_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)

    class Swapped(socket.socket):
        def bind(self, address: str, /) -> None:  # type: ignore[override]
            super().bind(address)
            os.unlink(address)
            os.symlink(precious, address)

    monkeypatch.setattr(socket, "socket", Swapped)
    with pytest.raises(ListenError, match="replaced by something else"):
        listen(f"unix://{tmp_path}/s", SocketOptions(mode=0o666))
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600


def test_a_socket_has_its_group(tmp_path: Path) -> None:
    listening = listen(f"unix://{tmp_path}/s", SocketOptions(group=str(os.getgid())))
    assert (tmp_path / "s").stat().st_gid == os.getgid()
    listening.close()
    with pytest.raises(ConfigError, match="no group 'nobody-has-this'"):
        listen(f"unix://{tmp_path}/s", SocketOptions(group="nobody-has-this"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://localhost:0", "tcp://[::1]:0", "tcp://:0"])
def test_a_tcp_socket(address: str) -> None:
    if "::1" in address and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 on this machine")
    listening = listen(address)
    port = listening.socket.getsockname()[1]
    assert listening.address.endswith(f":{port}")
    assert not listening.is_unix
    listening.close()


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:80", "http://x:80", "tcp://x", "tcp://x:99999", "unix:", "unix://", "tcp://x:80:90",
     "tcp://a..b:80", "tcp://[x]:80", "tcp://x:\N{SUPERSCRIPT TWO}", "unix:///a\0b"],
)  # fmt: skip
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(AddressError):
        listen(address)


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="107 bytes"):
        listen(f"unix://{tmp_path}/{'x' * 108}")


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listening = listen(f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
    listening.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_an_address_in_use_says_by_whom(tmp_path: Path, kind: str) -> None:
    first = listen(f"unix://{tmp_path}/s" if kind == "unix" else "tcp://127.0.0.1:0")
    with pytest.raises(ListenError, match=rf"in use by process {os.getpid()} \(.*pytest"):
        listen(first.address)
    if kind == "unix":
        assert (tmp_path / "s").exists()
    first.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ListenError, match="not a socket"):
        listen(f"unix://{tmp_path}/s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="No such file"):
        listen(f"unix://{tmp_path}/missing/s")


def test_a_socket_of_another_process_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = listen(f"unix://{path}")
    path.unlink()
    second = listen(f"unix://{path}")
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


@pytest.mark.parametrize("closed_early", [True, False])
def test_a_stopping_owner_leaves_a_later_socket(tmp_path: Path, closed_early: bool) -> None:
    """File systems give the number of a removed inode to the next file: without the old one kept open, to this one."""
    path = tmp_path / "s"
    first = listen(f"unix://{path}")
    if closed_early:
        first.socket.close()
        second = listen(f"unix://{path}")
    else:
        path.unlink()
        first.socket.close()
        second = listen(f"unix://{path}")
    first.close()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
    second.close()
    assert not path.exists()


def test_a_successor_does_not_own_a_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = listen(f"unix://{path}")
    known = old.file
    assert known is not None
    path.unlink()
    stranger = listen(f"unix://{path}")
    successor = ListeningSocket.inherited(old.socket.dup(), old.address, known)
    assert successor.file is None
    for listening in (successor, old):
        listening.close()
        assert path.exists()
    stranger.close()


def test_a_successor_removes_the_inherited_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = listen(f"unix://{path}")
    successor = ListeningSocket.inherited(old.socket.dup(), old.address, old.file)
    old.release()
    assert path.exists()
    successor.close()
    assert not path.exists()


def test_a_foreign_lock_is_an_error_that_names_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LOCK_PATIENCE", 0.05)
    listening = listen(f"unix://{tmp_path}/a")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(ListenError, match=rf"{tmp_path} is locked \(flock\) by process {os.getpid()} \(.*pytest"):
            listen(f"unix://{tmp_path}/b")
        listening.close()
        assert (tmp_path / "a").exists()
    finally:
        os.close(descriptor)
    listen(f"unix://{tmp_path}/a").close()


def test_inherited_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As systemd hands them over, but at descriptors that are free here."""
    path = tmp_path / "s"
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(path))
    given.listen()
    monkeypatch.setattr(sockets, "FIRST_INHERITED_FD", given.detach())
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "OTHER": "y"}
    found = inherited_sockets(environ)
    assert environ == {"OTHER": "y"}
    assert list(found) == [str(path)]
    monkeypatch.setattr(sockets, "_inherited", lambda: found)
    listening = listen(f"unix://{path}")
    assert not listening.socket.get_inheritable()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
    listening.close()
    assert path.exists(), "it is systemd's"


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}])
def test_inherited_sockets_of_another_process_are_ignored(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == {}


def test_a_socket_stays_in_a_folder_we_may_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(path, missing_ok)

    listening = listen(f"unix://{tmp_path}/s")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        listening.close()
    listen(f"unix://{tmp_path}/s").close()
    assert not (tmp_path / "s").exists()


def test_a_socket_that_cannot_be_given_away_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ListenError, match=f"cannot be given to group 4242, we are user {os.geteuid()}"):
        listen(f"unix://{tmp_path}/s", SocketOptions(group="4242"))
    assert not (tmp_path / "s").exists()
