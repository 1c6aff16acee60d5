"""The broker's folder of saved versions: private to it, without copies that nobody needs."""

import asyncio
import json
from pathlib import Path

from tykpy.broker.catalog.served import SavedFolder
from tykpy.ipc.saved_versions import INDEX, copy_name


def opened(runtime_dir: Path) -> SavedFolder:
    kept = SavedFolder(runtime_dir)
    kept.open()
    assert kept.path is not None
    return kept


def make(kept: SavedFolder, path: str, version: str) -> str:
    assert kept.path is not None
    name = copy_name(path, version)
    (kept.path / name / "mine").mkdir(parents=True)
    return name


def test_unused_copies_are_removed(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    assert kept.path is not None
    names = [make(kept, "/b", version) for version in "123"]

    async def update(*, is_quiet: bool) -> None:
        kept.update({"/b": "1"}, [("/b", "2")], is_quiet=is_quiet)

    asyncio.run(update(is_quiet=False))
    assert {path.name for path in kept.path.iterdir()} == {INDEX, *names}
    assert json.loads((kept.path / INDEX).read_text()) == {"/b": "1"}
    asyncio.run(update(is_quiet=True))
    assert {path.name for path in kept.path.iterdir()} == {INDEX, *names[:2]}
    kept.close()
    kept.close()
    assert list((tmp_path / "saved").iterdir()) == []


def test_folders_of_running_brokers_are_left_alone(tmp_path: Path) -> None:
    first = opened(tmp_path)
    second = opened(tmp_path)
    (tmp_path / "saved" / "left").mkdir()
    third = opened(tmp_path)
    assert set((tmp_path / "saved").iterdir()) == {first.path, second.path, third.path}
    for kept in (first, second, third):
        kept.close()


def test_a_folder_of_other_users_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "saved").symlink_to("elsewhere")
    kept = SavedFolder(tmp_path)
    kept.open()
    assert kept.path is None
    (tmp_path / "saved").unlink()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved").chmod(0o777)
    kept.open()
    assert kept.path is None
    kept.update({"/b": "1"}, [], is_quiet=True)
