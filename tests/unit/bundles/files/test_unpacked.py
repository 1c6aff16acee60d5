"""Unpacked copies are shared while in use, repaired when damaged, removed when unused."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundles.files.test_archive import make
from tykpy.bundles.errors import ArchiveError
from tykpy.bundles.files.archive import UnpackedCopy, UnpackedFolder

FILES = (("manifest.json", b"{}"), ("lib/", b""), ("lib/x.py", b"X = 1"), ("empty.py", b""))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make(tmp_path / "a.zip", *FILES)


@pytest.fixture
def folder(tmp_path: Path) -> UnpackedFolder:
    return UnpackedFolder(tmp_path / "out")


@pytest.fixture
def copy(folder: UnpackedFolder, archive: Path) -> Iterator[UnpackedCopy]:
    with closing(folder.open(archive)) as copy:
        yield copy


def is_whole(copy: UnpackedCopy) -> bool:
    files = [(copy.root / name, content) for name, content in FILES if not name.endswith("/")]
    return all(path.is_file() and path.read_bytes() == content for path, content in files)


def test_an_archive_is_unpacked_once(folder: UnpackedFolder, archive: Path, copy: UnpackedCopy) -> None:
    with closing(folder.open(archive)) as again:
        assert again.root == copy.root
        assert again.root.stat().st_ino == copy.root.stat().st_ino
    assert is_whole(copy)


def test_concurrent_opens_share_one_complete_folder(tmp_path: Path) -> None:
    source = make(tmp_path / "a.zip", *[(f"f{i}.py", os.urandom(2_000)) for i in range(50)])
    copies: list[UnpackedCopy] = []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        copies.append(UnpackedFolder(tmp_path / "out").open(source))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 8
    (root,) = {copy.root for copy in copies}
    assert len(list(root.iterdir())) == 50
    assert list((tmp_path / "out").iterdir()) == [root]
    for copy in copies:
        copy.close()


def test_copy_is_removed_after_its_last_user(folder: UnpackedFolder, archive: Path, copy: UnpackedCopy) -> None:
    other = folder.open(archive)
    other.close()
    folder.sweep()
    assert is_whole(copy)
    copy.close()
    folder.sweep()
    assert not copy.root.exists()


def test_unused_versions_are_removed(folder: UnpackedFolder, archive: Path, tmp_path: Path) -> None:
    for version in range(10):
        make(archive, ("x.py", b"%d" % version))
        folder.open(archive).close()
    with closing(folder.open(archive)) as copy:
        folder.sweep()
        assert list((tmp_path / "out").iterdir()) == [copy.root]


def test_leftovers_of_dead_workers_are_removed(folder: UnpackedFolder, copy: UnpackedCopy, tmp_path: Path) -> None:
    (tmp_path / "out" / ".unpack-abc" / "lib").mkdir(parents=True)
    folder.sweep()
    assert list((tmp_path / "out").iterdir()) == [copy.root]


def without_a_file(root: Path) -> None:
    (root / "lib" / "x.py").unlink()


def without_a_folder(root: Path) -> None:
    shutil.rmtree(root / "lib")


def cut_off(root: Path) -> None:
    (root / "lib" / "x.py").write_bytes(b"X =")


def edited(root: Path) -> None:
    (root / "lib" / "x.py").write_bytes(b"X = 2")


def filled(root: Path) -> None:
    (root / "empty.py").write_bytes(b"X")


def with_a_link(root: Path) -> None:
    (root / "manifest.json").rename(root / "other.json")
    (root / "manifest.json").symlink_to(root / "other.json")


def replaced_by_a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_bytes(b"")


DAMAGE = [without_a_file, without_a_folder, cut_off, edited, filled, with_a_link, replaced_by_a_file]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("in_use", [True, False])
def test_a_damaged_copy_is_unpacked_again(
    folder: UnpackedFolder, archive: Path, tmp_path: Path, damage: Callable[[Path], None], in_use: bool
) -> None:
    first = folder.open(archive)
    if not in_use:
        first.close()
    damage(first.root)
    with closing(folder.open(archive)) as again:
        assert again.root == first.root
        assert is_whole(again)
        first.close()
        folder.sweep()
        left = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
        assert left == [again.root]
        assert is_whole(again)


def test_copy_swept_while_opened_is_unpacked_again(
    folder: UnpackedFolder, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.open(archive).close()
    known = folder._whole_copy

    def sweep_first(*arguments: Any) -> UnpackedCopy | None:
        monkeypatch.undo()
        folder.sweep()
        return known(*arguments)

    monkeypatch.setattr(folder, "_whole_copy", sweep_first)
    with closing(folder.open(archive)) as copy:
        assert is_whole(copy)


def test_forbidden_entries_and_damaged_zips_are_refused(folder: UnpackedFolder, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="leaves the bundle's folder"):
        folder.open(make(tmp_path / "b.zip", ("../evil.py", b"")))
    (tmp_path / "c.zip").write_bytes(b"no ZIP")
    with pytest.raises(ArchiveError, match="not a ZIP"):
        folder.open(tmp_path / "c.zip")
    assert list((tmp_path / "out").iterdir()) == []


def test_sweeping_a_missing_folder_does_nothing(folder: UnpackedFolder, tmp_path: Path) -> None:
    folder.sweep()
    assert not (tmp_path / "out").exists()
