"""Load again when a file is saved."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from watchfiles import Change, DefaultFilter, awatch

from tykpy.devserver.definitions.bundles import listed_files
from tykpy.devserver.gateway import DevFiles

DEBOUNCE_MS: Final = 100
"""Saves that come together, as those of an editor that writes a copy first, are one."""
STEP_MS: Final = 30
_SUFFIXES: Final = frozenset({".py", ".json", ".xml", ".zip"})


async def saves(files: DevFiles, stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield whenever one of the files has been saved, until `stop` is set."""
    watched = tuple(path.resolve() for path in files.paths)
    # Editors replace files, so their folders are watched.
    folders = {path if path.is_dir() else path.parent for path in watched}
    filtered = _Sources(files, watched)
    async for _ in awatch(*folders, watch_filter=filtered, debounce=DEBOUNCE_MS, step=STEP_MS, stop_event=stop):
        yield


class _Sources(DefaultFilter):
    """Passes changes of code and of JSON, and of what a manifest lists: hooks may write other files beside them."""

    def __init__(self, files: DevFiles, paths: tuple[Path, ...]) -> None:
        super().__init__()
        self._files = files
        self._paths = paths

    def __call__(self, change: Change, path: str) -> bool:
        place = Path(path)
        if not (any(place == one or one in place.parents for one in self._paths) and super().__call__(change, path)):
            return False
        return place in self._paths or place.suffix in _SUFFIXES or place in self._listed()

    def _listed(self) -> set[Path]:
        bundle = self._files.bundle
        return set() if bundle is None else listed_files(bundle.resolve())
