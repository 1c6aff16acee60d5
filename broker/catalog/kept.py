"""The broker's part of the kept versions: says which are served, and removes those that nobody needs."""

import asyncio
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tykpy.ipc.kept import ASIDE, INDEX, copy_name

log = logging.getLogger("tykpy.supervisor")

FOLDER: Final = "kept"
"""Below the runtime folder: a folder for each broker, as an upgrade has two for a moment."""


class KeptFolder:
    """A folder of this broker's own, locked as long as it lives. Without one, nothing is kept."""

    def __init__(self, runtime_dir: Path) -> None:
        self.path: Path | None = None
        self._lock = -1
        self._index: dict[str, str] | None = None
        self._runtime_dir = runtime_dir

    def open(self) -> None:
        """Make the folder, and remove those of brokers that are gone."""
        try:
            self._open(self._runtime_dir / FOLDER)
        except OSError as error:
            log.warning("no versions of bundles are kept: %s", error)

    def update(self, served: Mapping[str, str], used: Iterable[tuple[str, str]], *, is_quiet: bool) -> None:
        """Tell new workers what is served, and remove other copies where no worker is starting (`is_quiet`).

        `served`: versions by path. `used`: paths and versions of the copies that workers have loaded.
        """
        if self.path is None:
            return
        try:
            if served != self._index:
                self._write(self.path, dict(served))
            if is_quiet:
                names = {copy_name(path, version) for path, version in (*served.items(), *used)}
                self._remove_others(self.path, names)
        except OSError as error:
            log.warning("the versions that are kept in %s cannot be looked after: %s", self.path, error)

    def close(self) -> None:
        """Remove the folder; works at any time, and again."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
        self.path = None

    def _open(self, parent: Path) -> None:
        parent.mkdir(mode=0o700, exist_ok=True)
        status = parent.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022 or parent.is_symlink():
            raise OSError(f"{parent} is not a folder that only its user can write to")
        for name in os.listdir(parent):
            lock = _lock(parent / name)
            if lock is not None:
                shutil.rmtree(parent / name, ignore_errors=True)
                os.close(lock)
        path = Path(tempfile.mkdtemp(dir=parent))
        lock = _lock(path)
        if lock is None:
            raise OSError(f"{path} cannot be locked")
        self.path, self._lock = path, lock

    def _write(self, folder: Path, served: dict[str, str]) -> None:
        aside = folder / f"{ASIDE}{INDEX}"
        aside.write_text(json.dumps(served))
        aside.rename(folder / INDEX)
        self._index = served

    def _remove_others(self, folder: Path, names: set[str]) -> None:
        others = [name for name in os.listdir(folder) if name not in names and name != INDEX]
        for name in others:
            # Under its own name a copy is complete, always.
            gone = name if name.startswith(ASIDE) else f"{ASIDE}gone-{name}"
            (folder / name).rename(folder / gone)
            asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, folder / gone, True)


def _lock(folder: Path) -> int | None:
    """Lock a folder for as long as what is returned is open; None: another broker has it, or it is none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
