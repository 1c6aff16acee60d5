"""Load again when a file is saved."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

from watchfiles import Change, DefaultFilter, awatch

DEBOUNCE_MS: Final = 100
"""Saves that come together, as those of an editor that writes a copy first, are one."""
STEP_MS: Final = 30


async def saves(paths: Iterable[Path], stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield whenever something below one of the paths has changed, until `stop` is set."""
    watched = tuple(path.resolve() for path in paths)
    # Editors replace files, so their folders are watched.
    folders = {path if path.is_dir() else path.parent for path in watched}
    if not folders:
        await stop.wait()
        return
    filtered = _Watched(watched)
    async for _ in awatch(*folders, watch_filter=filtered, debounce=DEBOUNCE_MS, step=STEP_MS, stop_event=stop):
        yield


class _Watched(DefaultFilter):
    """Passes changes of some paths and of what is below them; no caches, and no files of editors and tools."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        super().__init__()
        self._paths = paths

    def __call__(self, change: Change, path: str) -> bool:
        place = Path(path)
        return any(place == one or one in place.parents for one in self._paths) and super().__call__(change, path)
