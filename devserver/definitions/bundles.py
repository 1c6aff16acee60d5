"""The hooks of bundles, from their manifests; and the API that a bundle stands for if there is no definition."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tykpy.bundles.files.discovery import Candidate, candidates, name_hash, part_folders
from tykpy.bundles.files.manifest import HOOK_TYPES, MANIFEST_NAME
from tykpy.devserver.definitions.api import Api, ConfiguredHook, Middleware
from tykpy.devserver.definitions.middleware import ManifestFile, joined
from tykpy.devserver.definitions.reading import JsonFile
from tykpy.devserver.errors import DefinitionError, DevError
from tykpy.ipc.text import why_unread

_KEYS: Final = {hook_type: key for key, hook_type in HOOK_TYPES.items()}


class BundleFiles:
    """The bundles at a path: a bundle itself, or a folder of bundles."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    def middleware(self, name: str) -> Middleware | None:
        """Return the hooks of the bundle that an API names; None if it has no manifest, a single `.py` file.

        A single bundle stands for any name. Raises DevError.
        """
        found = self._candidates()
        named = [one for one in found if name_hash(name) in one.hashes]
        if not named and len(found) != 1:
            names = ", ".join(one.name for one in found) or "none"
            raise DevError(f"{self._path}: no bundle {name!r}; there are: {names}")
        return middleware_of_candidate((named or found)[0])

    def only(self) -> tuple[str, Middleware | None]:
        """Return name and hooks of the only bundle; no hooks if it has no manifest.

        Raises DevError if it is not alone.
        """
        found = self._candidates()
        if len(found) != 1:
            names = ", ".join(one.name for one in found)
            raise DevError(
                f"{self._path}: {len(found)} bundles ({names}); name one of them, or give API definitions with --api"
                if found
                else f"{self._path}: no bundle, which is a folder with {MANIFEST_NAME}, a ZIP or a .py file; "
                "`tykpy new NAME` makes one"
            )
        return found[0].path.name, middleware_of_candidate(found[0])

    def _candidates(self) -> list[Candidate]:
        try:
            return [one for one in candidates(self._path) if one.path.is_file() or _has_manifest(one.path)]
        except OSError as error:
            raise DevError(f"{self._path}: cannot be read: {why_unread(error)}") from error


def default_api(bundle: str, middleware: Middleware) -> Api:
    """Return the API that serves a bundle without a definition: at `/`, with keys only if it has an auth hook."""
    has_auth = middleware.auth_check is not None
    return Api(name=bundle, bundle=bundle, is_keyless=not has_auth, has_auth_hook=has_auth, middleware=middleware)


def middleware_of_hooks(hooks: Iterable[Mapping[str, Any]]) -> Middleware:
    """Return the hooks of a bundle without a manifest: by their decorators, as they are defined."""
    by_key: dict[str, list[ConfiguredHook]] = {key: [] for key in HOOK_TYPES}
    for hook in hooks:
        if (key := _KEYS.get(hook["hook_type"] or "")) is not None:
            by_key[key].append(ConfiguredHook(hook["name"]))
    chains = {key: tuple(found) for key, found in by_key.items() if key != "auth_check"}
    return Middleware(auth_check=next(iter(by_key["auth_check"]), None), **chains)  # type: ignore[arg-type]


def middleware_of_candidate(candidate: Candidate) -> Middleware | None:
    """Return the hooks of a bundle; None if it has no manifest. Raises DevError, also if it has just been removed."""
    place = candidate.place
    if place.suffix == ".py":
        return None
    if place.is_file():
        return _of_manifest(_in_archive(place))
    if (place / MANIFEST_NAME).is_file():
        return _of_manifest(JsonFile.read(place / MANIFEST_NAME))
    try:
        folders, _ = part_folders(place)
    except OSError as error:
        raise DevError(f"{place}: cannot be read: {why_unread(error)}") from error
    if not folders:
        raise DevError(f"{place}: no {MANIFEST_NAME}")
    return joined((folder.name, _of_manifest(JsonFile.read(folder / MANIFEST_NAME))) for folder in folders)


def listed_files(path: Path) -> set[Path]:
    """Return the files that the manifest of a bundle lists; none if it cannot be read, or is in a ZIP."""
    try:
        listed = JsonFile.read(path / MANIFEST_NAME).convert(ManifestFile).file_list
    except DevError:
        return set()
    return {path / name for name in listed}


def _has_manifest(folder: Path) -> bool:
    return (folder / MANIFEST_NAME).is_file() or bool(part_folders(folder)[0])


def _of_manifest(file: JsonFile) -> Middleware:
    return file.convert(ManifestFile).custom_middleware.read()


def _in_archive(path: Path) -> JsonFile:
    try:
        with zipfile.ZipFile(path) as archive:
            return JsonFile(archive.read(MANIFEST_NAME).decode("utf-8-sig"), f"{path}/{MANIFEST_NAME}")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DefinitionError(f"no {MANIFEST_NAME} can be read in it: {error}", str(path)) from error
