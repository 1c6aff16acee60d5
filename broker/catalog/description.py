"""What workers say they have loaded: put together from the pieces they send, and compared."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from tykpy.ipc.description import MAX_ACCEPTED, MAX_HOOKS
from tykpy.ipc.errors import ControlCorruptError

BundleDescription = dict[str, Any]
Description = list[BundleDescription]
"""The bundles of one worker, as it describes them."""
Signature = frozenset[tuple[object, ...]]


class BundleChange(NamedTuple):
    """One bundle in two descriptions."""

    name: str
    change: str
    """`new`, `changed`, `same` or `gone`."""
    hooks: int
    problems: tuple[str, ...]
    hashes: tuple[str, ...]


def bundle_problems(bundle: dict[str, Any]) -> Iterator[str]:
    """Yield what could not be loaded of a bundle, one line each."""
    faults = ([bundle["error"]] if bundle["error"] else []) + list(bundle["faulty"])
    for fault in faults:
        place = f"{fault['file']}:{fault['line']}: " if fault["line"] else f"{fault['file']}: " if fault["file"] else ""
        yield f"bundle {bundle['name']}: {place}{fault['message']}"


def compare(before: Description, after: Description) -> list[BundleChange]:
    """Return how every bundle of either description has changed, by name."""
    old, new = _by_path(before), _by_path(after)
    changes = [_change(old.get(path), bundle) for path, bundle in new.items()]
    changes += [
        BundleChange(bundle["name"], "gone", 0, (), tuple(bundle["hashes"]))
        for path, bundle in old.items()
        if path not in new
    ]
    return sorted(changes)


def version_of(description: Description) -> str:
    """Return a short hash of everything that is loaded, equal for workers that have loaded the same."""
    parts = sorted(f"{bundle['path']}\0{bundle.get('version', '')}" for bundle in description)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8] if parts else ""


def _change(old: dict[str, Any] | None, new: dict[str, Any]) -> BundleChange:
    problems = tuple(bundle_problems(new))
    change = "new"
    if old is not None:
        # The same files may load at another time, when what they need is there.
        is_same = old.get("version") == new.get("version") and any(bundle_problems(old)) == bool(problems)
        change = "same" if is_same else "changed"
    return BundleChange(new["name"], change, len(new["hooks"]), problems, tuple(new["hashes"]))


def _by_path(description: Description) -> dict[str, dict[str, Any]]:
    return {bundle["path"]: bundle for bundle in description}


class DescriptionBuilder:
    """Puts descriptions together from pieces, in a bounded amount of memory whatever a worker sends."""

    def __init__(self) -> None:
        self._bundles: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._begun: dict[str, Any] | None = None
        self._begun_size = 0

    @property
    def bundles(self) -> list[dict[str, Any]]:
        """The bundles that are complete."""
        return list(self._bundles.values())

    def add(self, piece: dict[str, Any], size: int) -> dict[str, Any] | None:
        """Add a piece of `size` bytes; return the bundle when it is complete.

        Raises ControlCorruptError for what no worker sends.
        """
        begun, path = self._begun or {**piece, "hooks": [], "faulty": []}, piece["path"]
        begun["hooks"] += piece["hooks"]
        begun["faulty"] += piece["faulty"]
        self._begun, self._begun_size = begun, self._begun_size + size
        count = len(begun["hooks"]) + len(begun["faulty"])
        if path != begun["path"] or count > MAX_HOOKS or self._total + self._begun_size > MAX_ACCEPTED:
            raise ControlCorruptError(f"a description of {count} hooks that does not belong to those before it")
        return None if piece["more"] else self._complete(begun)

    def _complete(self, bundle: dict[str, Any]) -> dict[str, Any]:
        path, size = bundle["path"], self._begun_size
        self._total += size - self._sizes.get(path, 0)
        del bundle["more"]
        self._bundles[path], self._sizes[path] = bundle, size
        self._begun, self._begun_size = None, 0
        return bundle


def is_sound(bundle: BundleDescription) -> bool:
    """Say whether all of the bundle could be loaded."""
    return not any(bundle_problems(bundle))


def signature_of(description: Description) -> Signature:
    """Return a value that is equal for workers that can run the same hooks."""
    return frozenset((bundle["path"], *facts_of(bundle)) for bundle in description)


def facts_of(bundle: BundleDescription) -> tuple[object, ...]:
    # The hooks as well: code may define them or not, by what it finds when it is imported.
    return bundle["version"], is_sound(bundle), tuple(hook["name"] for hook in bundle["hooks"])
