"""`tykpy bundle list`: the contents of a bundle, as its manifest lists them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tykpy.bundles.files.manifest import CHAIN_NAME, ListedHook, Manifest
from tykpy.bundles.files.verification import unlisted
from tykpy.commands.bundle.reading import manifest_of, opened


class Listing(NamedTuple):
    """Facts about a bundle, and tables of its files and hooks."""

    facts: list[tuple[str, str]]
    files: list[tuple[str, str]]
    """A file's name, and its size in bytes or the reason why it has none."""
    hooks: list[tuple[str, str, str]]
    """Hook type, name, and remarks."""


def list_bundle(bundle: Path) -> Listing:
    """Read a bundle without verifying it. Raises CommandError if there is none."""
    with opened(bundle) as root:
        manifest = manifest_of(root, bundle)
        return Listing(list(_facts(manifest)), list(_files(root, manifest)), list(map(_hook, manifest.hooks)))


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "driver", manifest.driver or "none"
    yield "checksum", manifest.checksum or "none"
    yield "signature", "there" if manifest.signature else "none"


def _files(root: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    for name in manifest.file_list:
        path = root / name
        yield name, str(path.stat().st_size) if path.is_file() else "missing"
    for name in unlisted(root, manifest.file_list):
        yield name, "not in file_list"


def _hook(hook: ListedHook) -> tuple[str, str, str]:
    remarks = [name for name in ("disabled", "raw_body_only") if getattr(hook, name)]
    if hook.in_chain:
        remarks.append(f"in {CHAIN_NAME}")
    if hook.timeout is not None:
        remarks.append(f"timeout {hook.timeout:g} s")
    return hook.hook_type, hook.name, ", ".join(remarks)
