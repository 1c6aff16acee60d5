"""`manifest.json`: which files a bundle has, and which hooks the gateway runs at which point.

Reads what the gateway reads (`apidef.BundleManifest`), and two fields of our own: a hook's `timeout` in seconds, and
the `chain` of an entry `*`, a list of the hooks that it stands for.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import msgspec

from tykpy.bundles.errors import ManifestError
from tykpy.ipc.regular_file import read_regular
from tykpy.ipc.text import why_unread, wrong_field

MANIFEST_NAME: Final = "manifest.json"
MAX_MANIFEST_SIZE: Final = 1 << 20
"""In bytes; a manifest of a thousand files and hooks has a tenth of that."""

HOOK_TYPES: Final = {
    "pre": "Pre",
    "auth_check": "CustomKeyCheck",
    "post_key_auth": "PostKeyAuth",
    "post": "Post",
    "response": "Response",
}
"""Hook types by their keys in the manifest, in the order in which the gateway runs them."""

CHAIN_NAME: Final = "*"
"""The hook name that stands for a bundle's whole chain of the hook type."""

PYTHON_DRIVERS: Final = ("", "grpc", "python")
"""Drivers whose bundles hold Python; a gateway's folder may also hold others (otto, lua, goplugin)."""


@dataclass(frozen=True, slots=True)
class ListedHook:
    """One hook as the manifest lists it."""

    name: str
    hook_type: str
    disabled: bool = False
    raw_body_only: bool = False
    timeout: float | None = None
    in_chain: bool = False
    """Whether it is listed inside an entry `*`, which the gateway calls instead."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A valid manifest."""

    file_list: tuple[str, ...] = ()
    driver: str = ""
    hooks: tuple[ListedHook, ...] = ()
    chained: frozenset[str] = frozenset()
    """The hook types for which it lists `*`: the gateway asks for the whole chain."""
    checksum: str = ""
    signature: str = ""


# The JSON, as gateways write it: null is the same as nothing.


class _Hook(msgspec.Struct):
    name: str | None = None
    disabled: bool | None = None
    raw_body_only: bool | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)] | None = None


class _Entry(_Hook):
    chain: list[_Hook] | None = None


class _Middleware(msgspec.Struct):
    driver: str | None = None
    pre: list[_Entry] | None = None
    auth_check: _Entry | None = None
    post_key_auth: list[_Entry] | None = None
    post: list[_Entry] | None = None
    response: list[_Entry] | None = None


class _Document(msgspec.Struct):
    file_list: list[str] | None = None
    custom_middleware: _Middleware | None = None
    checksum: str | None = None
    signature: str | None = None


def read_manifest(path: Path) -> Manifest:
    """Read the manifest at `path`.

    Raises ManifestError, with the line if it is not JSON, with the field's path if a value is impossible.
    """
    try:
        size = path.stat().st_size
        content = read_regular(path) if size <= MAX_MANIFEST_SIZE else b""
    except OSError as error:
        raise ManifestError(f"cannot be read: {why_unread(error)}", str(path)) from error
    if size > MAX_MANIFEST_SIZE:
        raise ManifestError(f"{size} bytes are too many for a manifest (limit {MAX_MANIFEST_SIZE})", str(path))
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, file: str = MANIFEST_NAME) -> Manifest:
    """Read a manifest's bytes; `file` is named in errors. Raises ManifestError."""
    decoded = _decode(content, file)
    try:
        return _manifest(msgspec.convert(decoded, _Document))
    except msgspec.ValidationError as error:
        raise ManifestError(wrong_field(error, "the manifest"), file) from error
    except UnicodeEncodeError as error:
        raise ManifestError(f"{error.object!r} is not valid Unicode", file) from error
    except ValueError as error:
        raise ManifestError(str(error), file) from error


def _decode(content: bytes, file: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise ManifestError(message, file, error.lineno) from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"not UTF-8: {error.reason} at byte {error.start}", file) from error
    except (RecursionError, ValueError) as error:
        raise ManifestError(f"not JSON that can be read: {error}", file) from error


def _manifest(document: _Document) -> Manifest:
    """Return the manifest. Raises ValueError, with the field's path, for a value that makes no sense."""
    middleware = document.custom_middleware or _Middleware()
    driver = (middleware.driver or "").lower()
    if driver not in PYTHON_DRIVERS:
        needed = 'a bundle for tykpy has "grpc" or "python"'
        raise ValueError(f'custom_middleware.driver: "{driver}" is not Python; {needed}')
    hooks = tuple(_hooks(middleware))
    return Manifest(
        file_list=tuple(_files(document.file_list or ())),
        driver=driver,
        # A listed `*` makes the gateway ask for the whole chain; it is not a hook that a file must define.
        hooks=tuple(hook for hook in hooks if hook.name != CHAIN_NAME),
        chained=frozenset(hook.hook_type for hook in hooks if hook.name == CHAIN_NAME and not hook.disabled),
        checksum=(document.checksum or "").lower(),
        signature=document.signature or "",
    )


def _files(names: Iterable[str]) -> Iterator[str]:
    for index, name in enumerate(names):
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise ValueError(f"file_list[{index}]: {name!r} is not a file inside the bundle")
        yield str(PurePosixPath(name))


def _hooks(middleware: _Middleware) -> Iterator[ListedHook]:
    for key, hook_type in HOOK_TYPES.items():
        found = getattr(middleware, key) or []
        entries = {f"{key}[{index}]": entry for index, entry in enumerate(found)} if isinstance(found, list) else {}
        if isinstance(found, _Entry) and found.name:
            entries = {key: found}
        for name, entry in entries.items():
            place = f"custom_middleware.{name}"
            hook = _hook(entry, hook_type, place)
            yield hook
            yield from _chain(entry, hook, place)


def _hook(entry: _Hook, hook_type: str, place: str) -> ListedHook:
    if not entry.name:
        raise ValueError(f"{place}.name: the hook's function name is missing")
    return ListedHook(entry.name, hook_type, bool(entry.disabled), bool(entry.raw_body_only), entry.timeout)


def _chain(entry: _Entry, whole: ListedHook, place: str) -> Iterator[ListedHook]:
    """Yield the hooks that an entry `*` lists; they are disabled if it is."""
    if entry.chain and whole.name != CHAIN_NAME:
        raise ValueError(f'{place}.chain: only an entry "{CHAIN_NAME}" has one')
    for index, inner in enumerate(entry.chain or ()):
        hook = _hook(inner, whole.hook_type, f"{place}.chain[{index}]")
        if hook.name == CHAIN_NAME:
            raise ValueError(f'{place}.chain[{index}].name: a chain lists hooks, and "{CHAIN_NAME}" is none')
        yield replace(hook, in_chain=True, disabled=hook.disabled or whole.disabled)
