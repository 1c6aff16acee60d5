"""Unpacking ZIP bundles: forbidden entries are refused before anything is written."""

import stat
import zipfile
from pathlib import Path

import pytest

from tykpy.bundles.errors import ArchiveError
from tykpy.bundles.files import archive
from tykpy.bundles.files.archive import check_entries, unpack


def make(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for entry, content in entries:
            opened.writestr(entry, content)
    return path


def linked(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (kind | 0o777) << 16
    return entry


def test_files_and_folders_are_written(tmp_path: Path) -> None:
    root = unpack(
        make(tmp_path / "a.zip", ("manifest.json", b"{}"), ("lib/", b""), ("lib/x.py", b"X = 1")), tmp_path / "out"
    )
    assert (root / "lib" / "x.py").read_bytes() == b"X = 1"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [root.name]


def test_different_content_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    first = unpack(make(tmp_path / "a.zip", ("x.py", b"1")), tmp_path / "out")
    second = unpack(make(tmp_path / "a.zip", ("x.py", b"2")), tmp_path / "out")
    assert first != second
    assert (first / "x.py").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("../evil.py", "leaves the bundle's folder"),
        ("/evil.py", "leaves the bundle's folder"),
        ("a/../../evil.py", "leaves the bundle's folder"),
        ("..\\evil.py", "leaves the bundle's folder"),
        ("c:evil.py", "leaves the bundle's folder"),
        (linked("link", stat.S_IFLNK), "is a link"),
        (linked("pipe", stat.S_IFIFO), "is neither a file nor a folder"),
    ],
)
def test_forbidden_entries_are_refused(tmp_path: Path, entry: zipfile.ZipInfo | str, reason: str) -> None:
    source = make(tmp_path / "a.zip", ("fine.py", b""), (entry, b"/etc/passwd"))
    with pytest.raises(ArchiveError, match=reason):
        unpack(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "evil.py").exists()


def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    source = make(tmp_path / "a.zip", ("zeros", bytes(4 << 20)))
    with pytest.raises(ArchiveError, match="times its size"):
        unpack(source, tmp_path / "out")


def test_limits_of_count_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "a.zip", ("a", b"1234"), ("b", b"1234"))
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1)
    with pytest.raises(ArchiveError, match="more than 1 entries"):
        unpack(source, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MAX_UNPACKED_SIZE", 7)
    with pytest.raises(ArchiveError, match="more than 7 bytes"):
        unpack(source, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is there twice"):
        unpack(make(tmp_path / "a.zip", ("a", b"1"), ("a", b"2")), tmp_path / "out")


def test_truncated_zip_is_an_error(tmp_path: Path) -> None:
    source = make(tmp_path / "a.zip", ("a", b"1" * 500))
    source.write_bytes(source.read_bytes()[:-30])
    with pytest.raises(ArchiveError, match="not a ZIP"):
        unpack(source, tmp_path / "out")


def test_an_encrypted_entry_is_refused() -> None:
    entry = zipfile.ZipInfo("middleware.py")
    entry.flag_bits |= 0x1
    with pytest.raises(ArchiveError, match="is encrypted"):
        check_entries([entry], "a.zip")
