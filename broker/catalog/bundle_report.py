"""What workers say that they have loaded, compared: what is new, what changed, and what got broken."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

Description = list[dict[str, Any]]
"""The bundles of one worker, as it describes them."""


class BundleChange(NamedTuple):
    """One bundle in two descriptions."""

    name: str
    change: str
    """`new`, `changed`, `same` or `gone`."""
    hooks: int
    problems: tuple[str, ...]
    hashes: tuple[str, ...]


def problems_of(bundle: dict[str, Any]) -> Iterator[str]:
    """What of a bundle could not be loaded, one line each."""
    faults = ([bundle["error"]] if bundle["error"] else []) + list(bundle["faulty"])
    for fault in faults:
        place = f"{fault['file']}:{fault['line']}: " if fault["line"] else f"{fault['file']}: " if fault["file"] else ""
        yield f"bundle {bundle['name']}: {place}{fault['message']}"


def compare(before: Description, after: Description) -> list[BundleChange]:
    """Every bundle of either description, by name."""
    old, new = _by_path(before), _by_path(after)
    changes = [_change(old.get(path), bundle) for path, bundle in new.items()]
    changes += [
        BundleChange(bundle["name"], "gone", 0, (), tuple(bundle["hashes"]))
        for path, bundle in old.items()
        if path not in new
    ]
    return sorted(changes)


def version_of(description: Description) -> str:
    """A short name for everything that is loaded: the same for workers that loaded the same."""
    parts = sorted(f"{bundle['path']}\0{bundle.get('version', '')}" for bundle in description)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8] if parts else ""


def _change(old: dict[str, Any] | None, new: dict[str, Any]) -> BundleChange:
    problems = tuple(problems_of(new))
    change = "new"
    if old is not None:
        # The same files may load another time: what they need is there by then.
        is_same = old.get("version") == new.get("version") and any(problems_of(old)) == bool(problems)
        change = "same" if is_same else "changed"
    return BundleChange(new["name"], change, len(new["hooks"]), problems, tuple(new["hashes"]))


def _by_path(description: Description) -> dict[str, dict[str, Any]]:
    return {bundle["path"]: bundle for bundle in description}
