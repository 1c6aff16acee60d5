"""All bundles of a worker, loaded before it serves: what appears later comes with new workers."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tykpy.bundles.bundle import Bundle, BundlePart
from tykpy.bundles.errors import BundleError
from tykpy.bundles.files.archive import UnpackedFolder
from tykpy.bundles.files.discovery import Candidate, candidate_at, candidates, key_of, part_folders
from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.bundles.files.signature import PublicKey
from tykpy.bundles.files.versions import VersionCopies, same_code, version_of
from tykpy.bundles.left_behind import STARTED
from tykpy.bundles.load_observer import BundleSource, LoadObserver
from tykpy.bundles.loading import load_file, load_folder, too_many_hooks
from tykpy.bundles.plugin_errors import bundle_failed
from tykpy.ipc.description import MAX_HOOKS, MAX_NAME
from tykpy.ipc.text import bounded


@dataclass(slots=True, eq=False)
class _Entry:
    candidate: Candidate
    bundle: Bundle | None = None
    version: str = ""
    """Of the files that were loaded."""
    saved: str = ""
    """Why a saved version was loaded, and not the files that are there; empty: it was not."""

    def describe(self, bundle: Bundle) -> dict[str, Any]:
        return {**bundle.describe(), "version": self.version, "saved_copy": self.saved}


class BundleStore:
    """Finds bundles by their hash; read by many threads once everything is loaded."""

    def __init__(
        self,
        sources: Iterable[Path],
        unpacked: Path,
        public_key: PublicKey | None = None,
        observer: LoadObserver | None = None,
        saved: VersionCopies | None = None,
        *,
        runs_code: bool = True,
    ) -> None:
        """Look into the folders `sources` (a source may be a bundle itself); unpack ZIPs below `unpacked`.

        With a `public_key`, load only bundles that its owner signed. `saved`: versions to load in place of the files
        that are there. Without `runs_code` check all that can be checked without importing: no hooks are found.
        """
        self.sources = tuple(source.absolute() for source in sources)
        self._unpacked = UnpackedFolder(unpacked.absolute())
        self._public_key = public_key
        self._runs_code = runs_code
        self._observer = observer or LoadObserver()
        self._saved = saved or VersionCopies()
        self._entries: dict[Path, _Entry] = {}
        self._has_archives = False
        self._by_hash: dict[str, _Entry] = {}

    def load_all(self) -> None:
        """Load everything that looks like a bundle; a failure never stops the others from loading."""
        self._entries = {candidate.path: _Entry(candidate) for candidate in self._all_candidates()}
        self._by_hash = _by_hash(self._entries.values())
        self._has_archives = any(entry.candidate.place.suffix == ".zip" for entry in self._entries.values())
        for entry in sorted(self._entries.values(), key=lambda entry: self._observer.rank(entry.candidate.key)):
            if entry.candidate.looks_whole or self._saved.serves(entry.candidate.key):
                self._load(entry)

    def find(self, bundle_hash: str) -> Bundle | None:
        """Return the bundle that a gateway names by `bundle_hash`, or None if it is unknown."""
        entry = self._by_hash.get(bundle_hash)
        return None if entry is None else entry.bundle or _not_there_yet(entry.candidate)

    def sweep(self) -> None:
        """Remove what other workers have unpacked and nobody uses any more."""
        self._unpacked.sweep()

    def close(self) -> None:
        """Release what was unpacked, and remove it if nobody else uses it; nothing more can be imported from it."""
        for bundle in self.loaded():
            bundle.release()
        self.sweep()

    def loaded(self) -> list[Bundle]:
        """Return all bundles that were loaded, or tried."""
        return [entry.bundle for entry in self._entries.values() if entry.bundle is not None]

    def describe(self) -> list[dict[str, Any]]:
        """Return what is loaded and what is broken, as maps that msgpack can carry."""
        loaded = [(entry, entry.bundle) for entry in self._entries.values()]
        return [entry.describe(bundle) for entry, bundle in loaded if bundle and not bundle.is_other_file]

    def unloaded(self) -> list[dict[str, Any]]:
        """Describe what lies in the folders and was not loaded because it is no bundle (yet)."""
        left = [_not_there_yet(entry.candidate) for entry in self._entries.values() if entry.bundle is None]
        return [
            {**bundle.describe(), "state": "not loaded", "error": None, "why": f"no {MANIFEST_NAME} in it (yet)"}
            for bundle in left
        ]

    def _all_candidates(self) -> list[Candidate]:
        found = [candidate for source in self.sources for candidate in _candidates_in(source)]
        return [*found, *self._gone({candidate.key for candidate in found})]

    def _gone(self, present: set[str]) -> Iterator[Candidate]:
        """Find the bundles that are served and whose files are gone."""
        for key, place in self._saved.missing(present):
            places = {key_of(path): path for source in self.sources for path in (source, source / place.name)}
            candidate = candidate_at(place)
            if candidate is not None and key in places:
                yield replace(candidate, path=places[key])

    def _load(self, entry: _Entry) -> None:
        candidate = entry.candidate
        entry.bundle = bundle = self._load_served(entry, version_of(candidate.path))
        if bundle.is_sound and not entry.saved:
            self._saved.save(candidate, entry.version, lambda: version_of(candidate.path) == entry.version)
        if bundle.is_other_file:
            self._observer.gone(bundle.key)
        else:
            self._observer.loaded(entry.describe(bundle))

    def _load_served(self, entry: _Entry, version: str) -> Bundle:
        """Load the version that is served; the files that are there if they are it, or differ from it only in data."""
        candidate = entry.candidate
        entry.version, entry.saved = version, ""
        saved = self._saved.find(candidate.key, version)
        if saved is None:
            return self._load_observed(candidate, version)
        if same_code(candidate.path, saved.place):
            bundle = self._load_observed(candidate, version)
            if bundle.is_sound:
                return bundle
            bundle.close()
        entry.version, entry.saved = saved.version, saved.reason
        return self._load_observed(replace(candidate, place=saved.place), saved.version)

    def _load_observed(self, candidate: Candidate, version: str) -> Bundle:
        """Import the bundle, unless the broker has blocked this version for ending a worker."""
        observer, source = self._observer, BundleSource(candidate.key, candidate.name, version)
        why = observer.why_blocked(source)
        if why is not None:
            return _broken_bundle(candidate, BundleError(why, source.path))
        observer.loading(source)
        try:
            with observer.guard.around(candidate.name, archives=self._has_archives):
                return self._load_candidate(candidate)
        except BaseException as error:  # noqa: BLE001 (our own code, where the bundle patched what it uses)
            return _broken_bundle(candidate, bundle_failed(error, str(candidate.path), str(candidate.path)))
        finally:
            observer.report_replaced(source)
            observer.report_left(source)

    def _load_candidate(self, candidate: Candidate) -> Bundle:
        """Load whatever lies at the candidate's path; what fails is noted in the bundle, not raised."""
        place, name, path = candidate.place, candidate.name, candidate.path
        is_complete = True
        if place.suffix == ".py" and place.is_file():
            parts = [self._start(load_file(name, place, str(path), self._public_key, self._runs_code))]
        elif place.is_file():
            parts = [self._load_archive(candidate)]
        elif place.is_dir() and not (place / MANIFEST_NAME).is_file():
            parts, is_complete = self._load_parts(candidate)
        else:
            parts = [self._load_folder(name, place, path)]
        bundle = Bundle(name, candidate.hashes, path, parts, is_complete)
        if bundle.count > MAX_HOOKS:
            bundle.close()
            return _broken_bundle(candidate, too_many_hooks(path))
        return bundle

    def _load_parts(self, candidate: Candidate) -> tuple[list[BundlePart], bool]:
        """Load the parts of a folder that stands for several bundles, or that is a bundle without a manifest (yet)."""
        path, name = candidate.path, candidate.name
        folders, is_complete = part_folders(candidate.place)
        names = {folder: f"{name}/{bounded(folder.name, MAX_NAME)}" for folder in folders}
        parts = [self._load_folder(names[folder], folder, path / folder.name) for folder in folders]
        if not parts:
            return [self._load_folder(name, candidate.place, path)], True
        return parts, is_complete

    def _load_folder(self, name: str, root: Path, path: Path) -> BundlePart:
        return self._start(load_folder(name, root, str(path), self._public_key, self._runs_code))

    def _start(self, part: BundlePart) -> BundlePart:
        """Run the part's `on_start` functions; return a part with an error if one fails."""
        if part.on_start:
            self._observer.guard.left.add(STARTED)
        try:
            with nullcontext() if part.space is None else part.space.own_builtins():
                self._observer.start(part)
        except BundleError as error:
            part.close()
            return BundlePart(part.name, part.root, error=error)
        return part

    def _load_archive(self, candidate: Candidate) -> BundlePart:
        try:
            copy = self._unpacked.open(candidate.place)
        except BundleError as error:
            return BundlePart(candidate.name, candidate.place, error=error)
        part = self._load_folder(candidate.name, copy.root, candidate.path)
        part.copy = copy
        return part


def _candidates_in(source: Path) -> list[Candidate]:
    try:
        return list(candidates(source))
    except OSError:
        return []  # the broker reports it, once and not for every worker


def _broken_bundle(candidate: Candidate, error: BundleError) -> Bundle:
    """Return a bundle that cannot be used at all, and why."""
    part = BundlePart(candidate.name, candidate.path, error=error)
    return Bundle(candidate.name, candidate.hashes, candidate.path, [part])


def _not_there_yet(candidate: Candidate) -> Bundle:
    return _broken_bundle(candidate, BundleError(f"no {MANIFEST_NAME} in it (yet)", str(candidate.path)))


def _by_hash(entries: Iterable[_Entry]) -> dict[str, _Entry]:
    """Index the entries: a bundle's own name goes before the other names that a bundle answers to."""
    by_hash: dict[str, _Entry] = {}
    ordered = list(entries)
    for rank in range(max((len(entry.candidate.hashes) for entry in ordered), default=0)):
        for entry in ordered:
            if rank < len(entry.candidate.hashes):
                by_hash.setdefault(entry.candidate.hashes[rank], entry)
    return by_hash
