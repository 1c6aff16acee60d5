"""What a worker and the broker do to load a bundle does not depend on how many bundles there are.

Counted in bytecodes, and in the names of files that are listed: the one does not show what the kernel does.
"""

import posix
from pathlib import Path

import pytest

from tests.support.bundles import IMPORTS, write_bundle, write_files
from tests.unit.test_growth import count_bytecodes
from tykpy.broker.catalog.spread import Loaded, spread_of
from tykpy.bundles.registry import BundleStore
from tykpy.workers.dispatch.prepare import HookDispatcher

FEW, MANY = 20, 200
TOLERANCE = 0.03
HOOK = "@Pre\ndef H(request, session, spec):\n    return request, session\n"


def write(folder: Path, kind: str, count: int) -> None:
    for number in range(count):
        name = f"b{number:04}"
        if kind == "folder":
            write_bundle(folder / name, {"middleware.py": HOOK}, pre=[{"name": "H"}])
        else:
            write_files(folder, {f"{name}.py": IMPORTS + HOOK + ("" if kind == "file" else "raise ValueError\n")})


def cost(folder: Path, kind: str, count: int, *, serving: bool) -> float:
    """Return the bytecodes per bundle to load it, and to compare what two workers have loaded."""
    folder.mkdir()
    store = BundleStore([folder], folder / ".unpacked")
    if serving:
        store.load_all()
        HookDispatcher(store)
    write(folder, kind, count)

    def load() -> None:
        store.load_all()
        described = store.describe()
        spread_of([Loaded((), described), Loaded((), described)])

    spent = count_bytecodes(load)
    assert len(store.loaded()) == count
    for bundle in store.loaded():
        bundle.close()
    return spent / count


@pytest.mark.parametrize(("kind", "serving"), [("folder", False), ("file", True), ("broken file", False)])
def test_cost_per_bundle_is_constant(tmp_path: Path, kind: str, serving: bool) -> None:
    few = cost(tmp_path / "few", kind, FEW, serving=serving)
    many = cost(tmp_path / "many", kind, MANY, serving=serving)
    assert many == pytest.approx(few, rel=TOLERANCE)


def test_folders_are_not_listed_once_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "file", MANY)
    listed: list[str] = []

    def listdir(path: str) -> list[str]:
        listed.extend(names := original(path))
        return names

    original = posix.listdir
    monkeypatch.setattr(posix, "listdir", listdir)
    store = BundleStore([tmp_path], tmp_path / ".unpacked")
    store.load_all()
    for bundle in store.loaded():
        bundle.close()
    assert len(listed) <= 3 * MANY
