"""All bundles of a worker, loaded before it serves: what appears later comes with new workers."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tykpy.bundles.bundle import Bundle, BundlePart
from tykpy.bundles.errors import BundleError
from tykpy.bundles.files.discovery import Candidate, FileStamp, candidate_at, candidates, key_of, part_folders, stamp
from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.bundles.files.saved_versions import SavedVersions, same_code
from tykpy.bundles.files.signature import PublicKey
from tykpy.bundles.files.unpacked import UnpackedFolder
from tykpy.bundles.load_watch import BundleSource, LoadObserver
from tykpy.bundles.loading import load_file, load_folder, too_many_hooks
from tykpy.bundles.plugin_errors import bundle_failed
from tykpy.ipc.description import MAX_HOOKS, MAX_NAME
from tykpy.ipc.text import bounded

_VERSION_DIGITS: Final = 12


@dataclass(slots=True, eq=False)
class _Entry:
    candidate: Candidate
    bundle: Bundle | None = None
    version: str = ""
    """Of the files that were loaded."""
    kept: str = ""
    """Why these are not the files that are there; empty: they are."""


class BundleStore:
    """Finds bundles by their hash; read by many threads once everything is loaded."""

    def __init__(
        self,
        sources: Iterable[Path],
        unpacked: Path,
        public_key: PublicKey | None = None,
        watch: LoadObserver | None = None,
        kept: SavedVersions | None = None,
    ) -> None:
        """Look into the folders `sources` (a source may be a bundle itself); ZIPs are unpacked below `unpacked`.

        With a `public_key` only bundles that its owner signed are loaded. `watch`: who hears of each load. `kept`:
        versions to load in place of what is there.
        """
        self.sources = tuple(source.absolute() for source in sources)
        self._unpacked = UnpackedFolder(unpacked.absolute())
        self._public_key = public_key
        self._watch = watch or LoadObserver()
        self._kept = kept or SavedVersions()
        self._entries: dict[Path, _Entry] = {}
        self._by_hash: dict[str, _Entry] = {}

    def load_all(self) -> None:
        """Load everything that looks like a bundle; none that fails keeps the others from loading."""
        self._entries = {candidate.path: _Entry(candidate) for candidate in self._all_candidates()}
        self._by_hash = _by_hash(self._entries.values())
        for entry in self._entries.values():
            if entry.candidate.looks_whole or self._kept.serves(entry.candidate.key):
                self._load(entry)

    def find(self, bundle_hash: str) -> Bundle | None:
        """Return the bundle that a gateway means by `bundle_hash`; None: unknown."""
        entry = self._by_hash.get(bundle_hash)
        return None if entry is None else entry.bundle or _not_there_yet(entry.candidate)

    def sweep(self) -> None:
        """Remove what other workers have unpacked and nobody uses any more."""
        self._unpacked.sweep()

    def close(self) -> None:
        """Give back what was unpacked, and remove it if nobody else uses it: nothing more will be imported."""
        for bundle in self.loaded():
            for part in bundle.parts:
                part.give_back()
        self.sweep()

    def loaded(self) -> list[Bundle]:
        """Return all bundles that were loaded, or tried."""
        return [entry.bundle for entry in self._entries.values() if entry.bundle is not None]

    def describe(self) -> list[dict[str, Any]]:
        """Return what is loaded and what is broken, as maps that msgpack can carry."""
        loaded = [(entry, entry.bundle) for entry in self._entries.values()]
        return [_described(entry, bundle) for entry, bundle in loaded if bundle and not bundle.is_other_file]

    def unloaded(self) -> list[dict[str, Any]]:
        """Describe what lies in the folders and was not loaded, as it is no bundle (yet), likewise."""
        left = [_not_there_yet(entry.candidate) for entry in self._entries.values() if entry.bundle is None]
        return [
            {**bundle.describe(), "state": "not loaded", "error": None, "why": f"no {MANIFEST_NAME} in it (yet)"}
            for bundle in left
        ]

    def _all_candidates(self) -> list[Candidate]:
        found = [candidate for source in self.sources for candidate in self._candidates(source)]
        return [*found, *self._gone({candidate.key for candidate in found})]

    def _gone(self, present: set[str]) -> Iterator[Candidate]:
        """Find the bundles that are served and whose files are gone."""
        for key, place in self._kept.missing(present):
            places = {key_of(path): path for source in self.sources for path in (source, source / place.name)}
            candidate = candidate_at(place)
            if candidate is not None and key in places:
                yield replace(candidate, path=places[key])

    def _candidates(self, source: Path) -> list[Candidate]:
        try:
            return list(candidates(source))
        except OSError:
            return []  # the broker says so, once and not for every worker

    def _load(self, entry: _Entry) -> None:
        candidate = entry.candidate
        entry.bundle = bundle = self._load_served(entry, _version(stamp(candidate.path)))
        if bundle.is_sound and not entry.kept:
            self._kept.keep(candidate, entry.version, lambda: _version(stamp(candidate.path)) == entry.version)
        if bundle.is_other_file:
            self._watch.report.gone(bundle.key)
        else:
            self._watch.report.loaded(_described(entry, bundle))

    def _load_served(self, entry: _Entry, version: str) -> Bundle:
        """Load the version that is served where it is not the one that is there, or only data of it has changed."""
        candidate = entry.candidate
        entry.version, entry.kept = version, ""
        kept = self._kept.find(candidate.key, version)
        if kept is None:
            return self._load_watched(candidate, version)
        if same_code(candidate.path, kept.place):
            bundle = self._load_watched(candidate, version)
            if bundle.is_sound:
                return bundle
            bundle.close()
        entry.version, entry.kept = kept.version, kept.reason
        return self._load_watched(replace(candidate, place=kept.place), kept.version)

    def _load_watched(self, candidate: Candidate, version: str) -> Bundle:
        """Import the bundle, unless the broker says that this has ended a worker before."""
        watch, source = self._watch, BundleSource(candidate.key, candidate.name, version)
        why = watch.broken.reason(source)
        if why is not None:
            return broken_bundle(candidate, BundleError(why, source.path))
        watch.report.loading(source)
        watch.primitives.remember()
        try:
            with watch.guard.around():
                return load_bundle(candidate, self._unpacked, self._public_key)
        except BaseException as error:  # noqa: BLE001 (our own code, where the bundle changed what it stands on)
            return broken_bundle(candidate, bundle_failed(error, str(candidate.path), str(candidate.path)))
        finally:
            watch.look_for_replaced(source)


def _described(entry: _Entry, bundle: Bundle) -> dict[str, Any]:
    return {**bundle.describe(), "version": entry.version, "kept": entry.kept}


def _version(found: frozenset[FileStamp]) -> str:
    """Name a stamp: another one when any file of the bundle is another one."""
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:_VERSION_DIGITS]


def load_bundle(candidate: Candidate, unpacked: UnpackedFolder, public_key: PublicKey | None = None) -> Bundle:
    """Load whatever lies at the candidate's path; what fails is said in the bundle, not raised."""
    bundle = _load_candidate(candidate, unpacked, public_key)
    if bundle.count > MAX_HOOKS:
        bundle.close()
        return broken_bundle(candidate, too_many_hooks(candidate.path))
    return bundle


def broken_bundle(candidate: Candidate, error: BundleError) -> Bundle:
    """Return a bundle of which nothing can be used, and why."""
    part = BundlePart(candidate.name, candidate.path, error=error)
    return Bundle(candidate.name, candidate.hashes, candidate.path, [part])


def _not_there_yet(candidate: Candidate) -> Bundle:
    return broken_bundle(candidate, BundleError(f"no {MANIFEST_NAME} in it (yet)", str(candidate.path)))


def _load_candidate(candidate: Candidate, unpacked: UnpackedFolder, public_key: PublicKey | None) -> Bundle:
    place, name, key = candidate.place, candidate.name, str(candidate.path)
    if place.suffix == ".py" and place.is_file():
        parts = [load_file(name, place, key, public_key)]
    elif place.is_file():
        parts = [_load_archive(candidate, unpacked, public_key)]
    elif place.is_dir() and not (place / MANIFEST_NAME).is_file():
        return _load_parts(candidate, public_key)
    else:
        parts = [load_folder(name, place, key, public_key)]
    return Bundle(name, candidate.hashes, candidate.path, parts)


def _load_parts(candidate: Candidate, public_key: PublicKey | None) -> Bundle:
    """Load the bundles of a folder that stands for several; without any it is a bundle that is not there yet."""
    path, name = candidate.path, candidate.name
    folders, is_complete = part_folders(candidate.place)
    names = {folder: f"{name}/{bounded(folder.name, MAX_NAME)}" for folder in folders}
    parts = [load_folder(names[folder], folder, str(path / folder.name), public_key) for folder in folders]
    if not parts:
        return Bundle(name, candidate.hashes, path, [load_folder(name, candidate.place, str(path), public_key)])
    return Bundle(name, candidate.hashes, path, parts, is_complete)


def _load_archive(candidate: Candidate, unpacked: UnpackedFolder, public_key: PublicKey | None) -> BundlePart:
    try:
        copy = unpacked.open(candidate.place)
    except BundleError as error:
        return BundlePart(candidate.name, candidate.place, error=error)
    part = load_folder(candidate.name, copy.root, str(candidate.path), public_key)
    part.copy = copy
    return part


def _by_hash(entries: Iterable[_Entry]) -> dict[str, _Entry]:
    """Index the entries: a bundle's own name goes before what another one may be called as well."""
    by_hash: dict[str, _Entry] = {}
    ordered = list(entries)
    for rank in range(max((len(entry.candidate.hashes) for entry in ordered), default=0)):
        for entry in ordered:
            if rank < len(entry.candidate.hashes):
                by_hash.setdefault(entry.candidate.hashes[rank], entry)
    return by_hash
