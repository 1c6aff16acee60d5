"""A folder for bundles, and the real store and dispatcher on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bundles import Served

Serve = Callable[[], Served]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that `--bundles` names."""
    path = tmp_path / "bundles"
    path.mkdir()
    return path


@pytest.fixture
def serve(folder: Path, tmp_path: Path) -> Iterator[Serve]:
    """Serve the folder's bundles; everything is forgotten afterwards."""
    served: list[Served] = []

    def start() -> Served:
        served.append(Served(folder, tmp_path / "unpacked"))
        return served[-1]

    yield start
    for one in served:
        one.close()
