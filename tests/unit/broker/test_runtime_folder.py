"""The runtime folder: permissions, and whom it is given to."""

import os
import stat
from pathlib import Path

import pytest

from broker.errors import ListenError
from broker.runtime_folder import make_runtime_dir
from broker.sockets import SocketOptions
from tests.support.accounts import OTHER_USER, needs_root


def test_the_runtime_folder(tmp_path: Path) -> None:
    make_runtime_dir(tmp_path / "a" / "b")
    make_runtime_dir(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ListenError, match="written by everybody"):
        make_runtime_dir(tmp_path / "open")
    (tmp_path / "file").touch()
    with pytest.raises(ListenError, match="runtime folder"):
        make_runtime_dir(tmp_path / "file")


@pytest.mark.parametrize(("mode", "folder"), [(0o600, 0o700), (0o660, 0o710), (0o666, 0o711), (0o640, 0o700)])
def test_the_runtime_folder_lets_those_through_whom_a_socket_in_it_lets_in(
    tmp_path: Path, mode: int, folder: int, caplog: pytest.LogCaptureFixture
) -> None:
    options = SocketOptions(mode, str(os.getgid()))
    make_runtime_dir(tmp_path / "new", options)
    status = (tmp_path / "new").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (folder, os.getgid())
    assert not caplog.messages
    (tmp_path / "old").mkdir(mode=0o700)
    make_runtime_dir(tmp_path / "old", options)
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o700
    assert any("keeps those out" in message for message in caplog.messages) is (folder != 0o700)


def test_a_new_folder_belongs_to_the_owner_of_the_sockets(tmp_path: Path) -> None:
    needs_root()
    make_runtime_dir(tmp_path / "a" / "run", SocketOptions(0o660, "4242", OTHER_USER))
    status = (tmp_path / "a" / "run").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (OTHER_USER, 4242, 0o710)
    assert (tmp_path / "a").stat().st_uid == 0


def test_a_folder_of_roots_goes_to_its_new_owner_with_what_we_left_there(tmp_path: Path) -> None:
    needs_root()
    run, foreign = tmp_path / "run", tmp_path / "foreign"
    foreign.touch()
    (run / "unpacked" / "bundle").mkdir(parents=True)
    (run / "unpacked" / "bundle" / "middleware.py").touch()
    (run / "unpacked" / "link").symlink_to(foreign)
    (run / "storage.sqlite3").touch()
    run.chmod(0o755)
    make_runtime_dir(run, SocketOptions(group=str(OTHER_USER), owner=OTHER_USER))
    assert {path.lstat().st_uid for path in (run, *run.rglob("*"))} == {OTHER_USER}
    assert foreign.stat().st_uid == 0


@pytest.mark.parametrize("kind", ["other files", "others may write"])
def test_a_folder_of_roots_that_is_not_ours_alone_is_left_alone(tmp_path: Path, kind: str) -> None:
    needs_root()
    run = tmp_path / "run"
    run.mkdir()
    (run / ("passwd" if kind == "other files" else "tyk.sock")).touch()
    run.chmod(0o755 if kind == "other files" else 0o1777)
    with pytest.raises(ListenError, match="a --runtime-dir of its own"):
        make_runtime_dir(run, SocketOptions(owner=OTHER_USER))
    assert {path.stat().st_uid for path in (run, *run.rglob("*"))} == {0}
