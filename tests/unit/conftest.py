"""A folder for bundles, and the real store and dispatcher on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bundles import Served
from tykpy.ipc.frame import Kind

Serve = Callable[[], Served]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that `--bundles` names."""
    path = tmp_path / "bundles"
    path.mkdir()
    return path


@pytest.fixture(params=[Kind.OBJECT, Kind.OBJECT_MAP], ids=["protobuf", "msgpack"])
def serve(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Serve the folder's bundles to both kinds of callers; everything is forgotten afterwards."""
    served: list[Served] = []

    def start() -> Served:
        served.append(Served(folder, tmp_path / "unpacked", kind=request.param))
        return served[-1]

    yield start
    for one in served:
        one.close()
