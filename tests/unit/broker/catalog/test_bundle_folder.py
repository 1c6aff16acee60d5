"""The folder of bundles: its entries, what has changed, and what cannot be read."""

import os
from pathlib import Path

import pytest

from tests.support.bundles import write_bundle
from tykpy.broker.catalog import bundle_folder
from tykpy.broker.catalog.bundle_folder import CHECKED_AT_ONCE, BundleFolder, stamp_of


def test_possible_bundles_are_found_by_name(tmp_path: Path) -> None:
    write_bundle(tmp_path / "folder", {"middleware.py": ""})
    for name in ("one.py", "two.zip", ".hidden.py", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "__pycache__").mkdir()
    assert sorted(BundleFolder(tmp_path).look()) == ["folder", "one.py", "two.zip"]


def test_a_folder_that_is_a_bundle_is_its_only_entry(tmp_path: Path) -> None:
    folder = BundleFolder(write_bundle(tmp_path / "mine", {"middleware.py": ""}))
    assert list(folder.look()) == [""]
    assert folder.is_whole("")


def test_every_change_is_seen_within_a_few_looks(tmp_path: Path) -> None:
    names = [f"{number:03}.py" for number in range(3 * CHECKED_AT_ONCE)]
    for name in names:
        (tmp_path / name).write_text("1")
    folder = BundleFolder(tmp_path)
    before = folder.look()
    (tmp_path / names[-1]).write_text("22")
    assert any(folder.look()[names[-1]] != before[names[-1]] for _ in range(4))
    (tmp_path / names[0]).write_text("22")
    assert folder.look(again=[names[0]])[names[0]] != before[names[0]]


def test_a_folder_is_whole_once_it_can_be_loaded(tmp_path: Path) -> None:
    folder = BundleFolder(tmp_path)
    (tmp_path / "mine").mkdir()
    assert not folder.is_whole("mine")
    (tmp_path / "mine" / "part").mkdir()
    assert not folder.is_whole("mine")
    (tmp_path / "mine" / "part" / "manifest.json").touch()
    assert folder.is_whole("mine")


def test_a_missing_folder_has_no_entries(tmp_path: Path) -> None:
    folder = BundleFolder(tmp_path / "none")
    assert folder.look() == {}
    assert "no such folder yet" in folder.unreadable
    (tmp_path / "none").mkdir()
    folder.look()
    assert folder.unreadable == ""


@pytest.mark.parametrize("error", [PermissionError, NotADirectoryError])
def test_an_unsearchable_folder_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """Root may search everything, so the kernel's error is simulated."""
    (tmp_path / "mine.py").touch()
    folder = BundleFolder(tmp_path)

    def refuse(path: object, *_: object, **__: object) -> os.stat_result:
        raise error(13, "no", str(path))

    monkeypatch.setattr(os, "stat", refuse)
    assert set(folder.look()) <= {"mine.py"}
    assert folder.is_whole("mine.py")


def test_only_files_that_make_up_a_bundle_count(tmp_path: Path) -> None:
    before = stamp_of(tmp_path)
    for name in ("notes.txt", ".hidden.py", "data.sqlite"):
        (tmp_path / name).touch()
    for folder in ("__pycache__", ".git"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").touch()
    assert stamp_of(tmp_path) == before
    (tmp_path / "b.zip").touch()
    with_zip = stamp_of(tmp_path)
    assert with_zip != before
    os.utime(tmp_path / "b.zip", (1, 1))
    assert stamp_of(tmp_path) != with_zip


@pytest.mark.parametrize("renamed", [True, False])
def test_a_file_of_the_same_size_and_time_is_another(tmp_path: Path, renamed: bool) -> None:
    def put(path: Path, text: str) -> None:
        path.write_text(text)
        os.utime(path, (1, 1))

    put(tmp_path / "a.py", "one")
    before = stamp_of(tmp_path)
    put(tmp_path / ("new" if renamed else "a.py"), "two")
    if renamed:
        (tmp_path / "new").rename(tmp_path / "a.py")
    assert stamp_of(tmp_path) != before


def test_a_dangling_link_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.py").symlink_to(tmp_path / "nowhere")
    assert stamp_of(tmp_path) == frozenset()


def test_a_check_looks_at_so_many_entries_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they are: a link to a large tree must not keep the broker busy."""
    monkeypatch.setattr(bundle_folder, "MAX_LOOKED_AT", 5)
    (tmp_path / "real" / "1" / "2" / "3").mkdir(parents=True)
    (tmp_path / "real" / "1" / "2" / "3" / "found.py").touch()
    (tmp_path / "link").symlink_to("real")
    assert len(stamp_of(tmp_path / "link")) == 1
    (tmp_path / "real" / "1" / "2" / "3" / "4" / "5").mkdir(parents=True)
    (tmp_path / "real" / "1" / "2" / "3" / "4" / "5" / "too-deep.py").touch()
    assert len(stamp_of(tmp_path / "link")) == 1


def test_links_within_an_entry_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "loop").symlink_to(".")
    (tmp_path / "mine" / "others.py").symlink_to("..")
    (tmp_path / "mine" / "itself.py").symlink_to("itself.py")
    assert stamp_of(tmp_path / "mine") == frozenset()


def test_a_link_to_itself_hides_no_other_entry(tmp_path: Path) -> None:
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "mine.py").touch()
    folder = BundleFolder(tmp_path)
    assert list(folder.look()) == ["mine.py"]
    assert folder.unreadable == ""
