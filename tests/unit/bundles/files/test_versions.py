"""The version of a bundle changes with its content, and only then."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tykpy.bundles.files import versions
from tykpy.bundles.files.versions import version_of

LONG_AGO = 315_532_800
"""The earliest time in a ZIP, which tools with fixed times write."""


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def in_place(path: Path, content: bytes) -> None:
    write(path, content)


def by_rename(path: Path, content: bytes) -> None:
    write(path.with_suffix(".new"), content).rename(path)


def in_a_new_folder(path: Path, content: bytes) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    write(path, content)
    os.utime(path.parent, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize("put", [in_place, by_rename, in_a_new_folder])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("settled", [True, False])
def test_same_size_and_time_is_still_another_version(
    tmp_path: Path, put: Callable[[Path, bytes], None], whole: bool, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settled:
        monkeypatch.setattr(versions, "_SETTLED_NS", -(10**18))
    file = tmp_path / "bundle" / "middleware.py"
    file.parent.mkdir()
    write(file, b"version = 1")
    path = file.parent if whole else file
    before = version_of(path)
    put(file, b"version = 2")
    assert (file.stat().st_size, file.stat().st_mtime) == (11, LONG_AGO)
    assert version_of(path) != before
    put(file, b"version = 1")
    assert version_of(path) == before


def test_touching_files_does_not_change_the_version(tmp_path: Path) -> None:
    file = write(tmp_path / "middleware.py", b"version = 1")
    before = version_of(tmp_path)
    file.touch()
    file.chmod(0o600)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "middleware.pyc").write_bytes(b"compiled")
    assert version_of(tmp_path) == before


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_SETTLED_NS", -(10**18))
    write(tmp_path / "middleware.py", b"version = 1")
    before = version_of(tmp_path)
    monkeypatch.setattr(Path, "open", lambda *arguments: pytest.fail("read again"))
    assert version_of(tmp_path) == before


def test_recently_changed_file_is_read_again(tmp_path: Path) -> None:
    """It could change again within one tick of the file system's clock."""
    file = write(tmp_path / "middleware.py", b"version = 1")
    version_of(tmp_path)
    assert file not in versions._digests._known


def test_large_file_is_identified_by_inode_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_MAX_READ", 10)
    file = write(tmp_path / "model.bin", b"eleven byte")
    before = version_of(tmp_path)
    assert version_of(tmp_path) == before
    by_rename(file, b"other bytes")
    assert version_of(tmp_path) != before


def test_number_of_bytes_read_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_MAX_READ", 25)
    for number in range(4):
        write(tmp_path / f"{number}.bin", b"ten  bytes")
    digests = [digest for _, _, digest in versions._stamps(tmp_path)]
    assert sum(digest.startswith("(") for digest in digests) == 2


def test_a_pipe_among_the_files_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert len(list(versions._stamps(tmp_path))) == 1
