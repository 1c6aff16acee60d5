"""Descriptions of bundles compared, and files watched."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tykpy.broker.catalog import bundle_report
from tykpy.broker.catalog.file_watch import ContentWatch, stamp_of


def bundle(name: str, *faults: str, version: str = "1", error: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "path": f"/bundles/{name}",
        "hashes": [],
        "version": version,
        "error": {"message": error, "file": "/bundles/f.py", "line": 3} if error else None,
        "hooks": [{"name": "one"}],
        "faulty": [{"name": "two", "message": fault, "file": "", "line": 0} for fault in faults],
    }


def test_changes_are_named() -> None:
    before = [bundle("same"), bundle("changed"), bundle("gone")]
    after = [bundle("same"), bundle("changed", version="2"), bundle("new", "a fault")]
    assert bundle_report.compare(before, after) == [
        ("changed", "changed", 1, (), ()),
        ("gone", "gone", 0, (), ()),
        ("new", "new", 1, ("bundle new: a fault",), ()),
        ("same", "same", 1, (), ()),
    ]


def test_workers_that_loaded_the_same_have_the_same_version() -> None:
    assert bundle_report.version_of([bundle("a"), bundle("b")]) == bundle_report.version_of([bundle("b"), bundle("a")])
    assert bundle_report.version_of([bundle("a")]) != bundle_report.version_of([bundle("a", version="2")])
    assert bundle_report.version_of([]) == ""


@pytest.fixture
def changes(tmp_path: Path) -> Iterator[tuple[ContentWatch, list[str]]]:
    found: list[str] = []
    loop = asyncio.new_event_loop()
    yield ContentWatch(loop, tmp_path, lambda: found.append("changed")), found
    loop.close()


def test_a_change_is_told_once_and_only_when_it_has_settled(
    tmp_path: Path, changes: tuple[ContentWatch, list[str]]
) -> None:
    watch, found = changes
    file = tmp_path / "a" / "middleware.py"
    file.parent.mkdir()
    for text in ("1", "22"):
        file.write_text(text)
        watch.compare(stamp_of(tmp_path))
        assert found == []
    watch.compare(stamp_of(tmp_path))
    watch.compare(stamp_of(tmp_path))
    assert found == ["changed"]
    file.unlink()
    for _ in range(3):
        watch.compare(stamp_of(tmp_path))
    assert found == ["changed"] * 2


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


def test_a_link_to_nowhere_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").symlink_to(tmp_path / "nowhere")
    assert stamp_of(tmp_path) == frozenset()
