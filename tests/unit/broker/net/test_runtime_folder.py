"""The runtime folder: permissions, safety, and its owner."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.accounts import OTHER_USER, needs_root
from tykpy.broker.errors import ListenError
from tykpy.broker.net.runtime_folder import make_runtime_dir
from tykpy.broker.net.sockets import SocketOptions


def test_the_runtime_folder(tmp_path: Path) -> None:
    make_runtime_dir(tmp_path / "a" / "b")
    make_runtime_dir(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ListenError, match=f"{tmp_path}/open can be written by everybody"):
        make_runtime_dir(tmp_path / "open")
    (tmp_path / "file").touch()
    with pytest.raises(ListenError, match="runtime folder"):
        make_runtime_dir(tmp_path / "file")


@pytest.mark.parametrize(("mode", "folder"), [(0o600, 0o700), (0o660, 0o710), (0o666, 0o711), (0o640, 0o700)])
def test_the_runtime_folder_is_as_open_as_its_sockets(
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


def test_a_folder_of_roots_is_given_away_with_its_files(tmp_path: Path) -> None:
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
def test_a_folder_of_roots_with_other_files_is_not_given_away(tmp_path: Path, kind: str) -> None:
    needs_root()
    run = tmp_path / "run"
    run.mkdir()
    (run / ("passwd" if kind == "other files" else "tyk.sock")).touch()
    run.chmod(0o755 if kind == "other files" else 0o1777)
    with pytest.raises(ListenError, match="a --runtime-dir of its own"):
        make_runtime_dir(run, SocketOptions(owner=OTHER_USER))
    assert {path.stat().st_uid for path in (run, *run.rglob("*"))} == {0}


def folder_of_another(path: Path) -> Path:
    path.mkdir()
    os.chown(path, OTHER_USER, OTHER_USER)
    return path


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o775])
@pytest.mark.parametrize("depth", ["itself", "parent", "further up"])
def test_a_folder_that_others_can_replace_is_refused(tmp_path: Path, mode: int, depth: str) -> None:
    needs_root()
    top = tmp_path / "top"
    run = {"itself": top, "parent": top / "run", "further up": top / "a" / "b"}[depth]
    run.mkdir(parents=True)
    os.chown(top, 0, OTHER_USER)
    top.chmod(mode)
    writers = "everybody" if mode & stat.S_IWOTH else f"group {OTHER_USER}"
    with pytest.raises(ListenError, match=f"runtime folder {run} is not safe, {top} can be written by {writers}"):
        make_runtime_dir(run)
    top.chmod(mode & ~0o022)
    make_runtime_dir(run)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_below_another_users_is_refused(tmp_path: Path, exists: bool) -> None:
    needs_root()
    run = folder_of_another(tmp_path / "theirs") / "a" / "run"
    if exists:
        run.mkdir(parents=True)
    with pytest.raises(ListenError, match=rf"theirs belongs to another user \(uid {OTHER_USER}\)"):
        make_runtime_dir(run)
    assert exists or not run.parent.exists()
    make_runtime_dir(run, SocketOptions(owner=OTHER_USER))


def test_a_shared_folder_may_be_on_the_way_but_not_the_end(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    make_runtime_dir(shared / "run")
    (tmp_path / "link").symlink_to(shared)
    make_runtime_dir(tmp_path / "link" / "run")
    for end in (shared, tmp_path / "link", shared / "run" / ".."):
        with pytest.raises(ListenError, match="can be written by everybody"):
            make_runtime_dir(end)


def test_another_users_link_on_the_way_is_refused(tmp_path: Path) -> None:
    needs_root()
    shared, ours = tmp_path / "shared", tmp_path / "ours"
    shared.mkdir()
    shared.chmod(0o1777)
    ours.mkdir()
    (shared / "link").symlink_to(ours)
    make_runtime_dir(shared / "link" / "run")
    os.lchown(shared / "link", OTHER_USER, OTHER_USER)
    with pytest.raises(ListenError, match="shared/link belongs to another user"):
        make_runtime_dir(shared / "link" / "run")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ListenError, match="Too many levels of symbolic links"):
        make_runtime_dir(tmp_path / "a" / "run")


@pytest.mark.parametrize(
    "name",
    ["unpacked", "unpacked/bundle-0123", "saved", "saved/1", "storage.sqlite3", "storage.sqlite3-wal", "tyk.sock"],
)
@pytest.mark.parametrize("kind", ["another user's", "a link of another user", "everybody's"])
def test_planted_contents_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    needs_root()
    run, planted = tmp_path / "run", tmp_path / "run" / name
    make_runtime_dir(run)
    planted.parent.mkdir(exist_ok=True)
    if kind == "a link of another user":
        planted.symlink_to(tmp_path)
    elif "." in name:
        planted.touch()
    else:
        planted.mkdir()
    if kind == "everybody's":
        planted.chmod(0o777)
    else:
        os.lchown(planted, OTHER_USER, OTHER_USER)
    with pytest.raises(ListenError, match=f"run is not safe, {planted} (belongs to another|can be written by)"):
        make_runtime_dir(run)


def test_a_link_of_ours_is_as_safe_as_where_it_leads(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    make_runtime_dir(run)
    elsewhere.mkdir()
    (run / "unpacked").symlink_to(elsewhere)
    make_runtime_dir(run)
    elsewhere.chmod(0o777)
    with pytest.raises(ListenError, match=f"{elsewhere} can be written by everybody"):
        make_runtime_dir(run)


def test_new_parent_folders_are_safe(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        make_runtime_dir(tmp_path / "a" / "b" / "run")
        make_runtime_dir(tmp_path / "a" / "b" / "run")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
