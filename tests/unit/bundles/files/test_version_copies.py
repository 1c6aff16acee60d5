"""Saved copies of versions are complete, of one version, and found again."""

import json
import os
from pathlib import Path

import pytest

from tests.support.bundles import write_bundle
from tykpy.bundles.files import versions
from tykpy.bundles.files.discovery import Candidate, candidate_at
from tykpy.bundles.files.versions import VersionCopies, same_code
from tykpy.ipc.saved_versions import INDEX


def candidate(path: Path) -> Candidate:
    found = candidate_at(path)
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "saved"
    path.mkdir()
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Candidate:
    return candidate(write_bundle(tmp_path / "mine", {"middleware.py": "", "lib/data.txt": "data"}))


def served(folder: Path, mine: Candidate, version: str) -> VersionCopies:
    (folder / INDEX).write_text(json.dumps({mine.key: version}))
    return VersionCopies.read(folder, pinned=True)


def test_served_version_is_found(folder: Path, mine: Candidate) -> None:
    VersionCopies(folder).save(mine, "1", lambda: True)
    found = served(folder, mine, "1").find(mine.key, "2")
    assert found is not None
    assert (found.place.name, found.version) == ("mine", "1")
    assert (found.place / "lib" / "data.txt").read_text() == "data"
    assert served(folder, mine, "1").find(mine.key, "1") is None
    assert served(folder, mine, "3").find(mine.key, "2") is None
    assert list(served(folder, mine, "1").missing({mine.key})) == []
    assert list(served(folder, mine, "1").missing(set())) == [(mine.key, found.place)]
    assert VersionCopies.read(folder, pinned=False).find(mine.key, "2") is None


@pytest.mark.parametrize("index", [None, "", "[]", "{"])
def test_without_an_index_nothing_is_served(folder: Path, mine: Candidate, index: str | None) -> None:
    VersionCopies(folder).save(mine, "1", lambda: True)
    if index is not None:
        (folder / INDEX).write_text(index)
    assert VersionCopies.read(folder, pinned=True).find(mine.key, "2") is None
    assert VersionCopies.read(None, pinned=True).find(mine.key, "2") is None


def test_files_that_change_meanwhile_are_not_saved(folder: Path, mine: Candidate) -> None:
    VersionCopies(folder).save(mine, "1", lambda: False)
    assert list(folder.iterdir()) == []


def test_too_large_bundle_is_not_saved(folder: Path, mine: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "MAX_FILES", 2)
    VersionCopies(folder).save(mine, "1", lambda: True)
    monkeypatch.setattr(versions, "MAX_FILES", 9)
    monkeypatch.setattr(versions, "MAX_SIZE", 3)
    VersionCopies(folder).save(mine, "1", lambda: True)
    assert list(folder.iterdir()) == []


def test_links_and_pipes_are_handled(folder: Path, mine: Candidate, tmp_path: Path) -> None:
    """A link to a file is saved as a file, one to a folder as a link; a pipe is not read."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "x.py").write_text("X = 1")
    (mine.path / "linked.py").symlink_to(tmp_path / "shared" / "x.py")
    (mine.path / "folder").symlink_to("../shared")
    os.mkfifo(mine.path / "pipe")
    (mine.path / "__pycache__").mkdir()
    VersionCopies(folder).save(mine, "1", lambda: True)
    found = served(folder, mine, "1").find(mine.key, "2")
    assert found is not None
    assert not (found.place / "linked.py").is_symlink()
    assert (found.place / "folder" / "x.py").read_text() == "X = 1"
    assert sorted(os.listdir(found.place)) == ["folder", "lib", "linked.py", "manifest.json", "middleware.py"]
    assert same_code(mine.path, found.place)
    (mine.path / "lib" / "data.txt").write_text("other")
    assert same_code(mine.path, found.place)
    (mine.path / "linked.py").unlink()
    assert not same_code(mine.path, found.place)
    assert not same_code(mine.path / "none", found.place)


def test_unwritable_folder_is_not_an_error(mine: Candidate, tmp_path: Path) -> None:
    VersionCopies(tmp_path / "none").save(mine, "1", lambda: True)
    assert not (tmp_path / "none").exists()
