"""The version of each bundle that the pool serves, and the copies from which new workers load it."""

import asyncio
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tykpy.broker.catalog.description import BundleDescription, Description, bundle_problems, is_sound
from tykpy.ipc.saved_versions import ASIDE, INDEX, copy_name


class Served:
    """The bundles that some worker has loaded completely since the last reload, by path, as it described them."""

    def __init__(self) -> None:
        self._bundles: dict[str, BundleDescription] = {}

    @property
    def versions(self) -> dict[str, str]:
        """The version of each bundle, by path."""
        return {path: bundle["version"] for path, bundle in self._bundles.items()}

    def note(self, description: Description) -> None:
        """Add what a worker that gets dispatches has loaded."""
        self._bundles.update({bundle["path"]: bundle for bundle in description if is_sound(bundle)})

    def renew(self, description: Description) -> None:
        """Forget bundles that are gone or changed and add what new workers, which replace all others, have loaded."""
        versions = {bundle["path"]: bundle["version"] for bundle in description}
        self._bundles = {
            path: bundle for path, bundle in self._bundles.items() if versions.get(path) == bundle["version"]
        }
        self.note(description)

    def forget(self, path: str) -> None:
        """Stop serving a bundle."""
        self._bundles.pop(path, None)

    def lacking(self, description: Description) -> list[str]:
        """Return the served hooks and bundles that a worker with other files could not load or find."""
        found = {bundle["path"]: bundle for bundle in description}
        return list(self._lacking(found))

    def broken(self, description: Description, exclusive: Iterable[str]) -> list[str]:
        """Return what is served but could not be loaded by new workers, which are about to replace all others.

        `exclusive`: paths of bundles that perhaps only one worker at a time can load. It is no problem if a new worker
        could not load an unchanged one of these: an old worker still has what the bundle needs.
        """
        spared = set(exclusive)
        return [
            problem
            for bundle in description
            if (before := self._bundles.get(bundle["path"])) is not None
            and not (bundle["path"] in spared and bundle["version"] == before["version"])
            for problem in bundle_problems(bundle)
        ]

    def lost(self, descriptions: Iterable[Description]) -> list[BundleDescription]:
        """Return the bundles that none of these workers has loaded, and that one tried to load with unchanged files."""
        tried: set[str] = set()
        loaded: set[str] = set()
        for description in descriptions:
            for bundle in description:
                before = self._bundles.get(bundle["path"])
                if is_sound(bundle):
                    loaded.add(bundle["path"])
                elif before is not None and before["version"] == bundle["version"]:
                    tried.add(bundle["path"])
        return [self._bundles[path] for path in sorted(tried - loaded)]

    def _lacking(self, found: dict[str, BundleDescription]) -> Iterator[str]:
        for path, before in self._bundles.items():
            bundle = found.get(path)
            if bundle is None:
                yield f"bundle {before['name']}: {path} is not there any more"
            elif bundle["version"] != before["version"]:
                names = {hook["name"] for hook in bundle["hooks"]}
                gone = [hook["name"] for hook in before["hooks"] if hook["name"] not in names]
                missing = (f"bundle {before['name']}: hook {name} is not there any more" for name in gone)
                yield from list(bundle_problems(bundle)) or missing


log = logging.getLogger("tykpy.supervisor")

FOLDER: Final = "saved"
"""In the runtime folder: has a folder for each broker, as there are two during an upgrade."""


class SavedFolder:
    """The folder with copies of served bundles, locked while this broker lives. Without it nothing is saved."""

    def __init__(self, runtime_dir: Path) -> None:
        self.path: Path | None = None
        self._lock = -1
        self._index: dict[str, str] | None = None
        self._runtime_dir = runtime_dir

    def open(self) -> None:
        """Create the folder, and remove those of brokers that are gone."""
        try:
            self._open(self._runtime_dir / FOLDER)
        except OSError as error:
            log.warning("no versions of bundles are saved: %s", error)

    def update(self, served: Mapping[str, str], used: Iterable[tuple[str, str]], *, is_quiet: bool) -> None:
        """Tell new workers what is served, and remove other copies if no worker is starting (`is_quiet`).

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
            log.warning("the versions saved in %s cannot be maintained: %s", self.path, error)

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
            # Renamed first: under its own name a copy is always complete.
            gone = name if name.startswith(ASIDE) else f"{ASIDE}gone-{name}"
            (folder / name).rename(folder / gone)
            asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, folder / gone, True)


def _lock(folder: Path) -> int | None:
    """Lock a folder while the returned descriptor is open; None if another broker has locked it, or it is no folder."""
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
