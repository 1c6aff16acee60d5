"""`manifest.json`: which files a bundle has, and which hooks the gateway runs at which point.

Reads what the gateway reads (`apidef.BundleManifest`), and two fields of our own: a hook's `timeout` in seconds, and
the `chain` of an entry `*`, a list of the hooks that it stands for.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tykpy.bundles.errors import ManifestError
from tykpy.ipc.text import why_unread

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

_KINDS: Final[dict[type, str]] = {str: "a string", list: "a list", dict: "an object"}

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


def read_manifest(path: Path) -> Manifest:
    """Read the manifest at `path`.

    Raises ManifestError, with the line if it is not JSON, with the field's path if a value is impossible.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_MANIFEST_SIZE else b""
    except OSError as error:
        raise ManifestError(f"cannot be read: {why_unread(error)}", str(path)) from error
    if size > MAX_MANIFEST_SIZE:
        raise ManifestError(f"{size} bytes are too many for a manifest (limit {MAX_MANIFEST_SIZE})", str(path))
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, file: str = MANIFEST_NAME) -> Manifest:
    """Read a manifest's bytes; `file` is named in errors. Raises ManifestError."""
    fields = _Fields(_decode(content, file), "", file)
    middleware = fields.sub("custom_middleware")
    driver = middleware.text("driver").lower()
    if driver not in PYTHON_DRIVERS:
        raise middleware.wrong("driver", f'"{driver}" is not Python; a bundle for tykpy has "grpc" or "python"')
    hooks = tuple(_hooks(middleware))
    return Manifest(
        file_list=tuple(_files(fields)),
        driver=driver,
        # A listed `*` makes the gateway ask for the whole chain; it is not a hook that a file must define.
        hooks=tuple(hook for hook in hooks if hook.name != CHAIN_NAME),
        chained=frozenset(hook.hook_type for hook in hooks if hook.name == CHAIN_NAME and not hook.disabled),
        checksum=fields.text("checksum").lower(),
        signature=fields.text("signature"),
    )


def _decode(content: bytes, file: str) -> dict[str, Any]:
    try:
        decoded = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise ManifestError(message, file, error.lineno) from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"not UTF-8: {error.reason} at byte {error.start}", file) from error
    except (RecursionError, ValueError) as error:
        raise ManifestError(f"not JSON that can be read: {error}", file) from error
    if not isinstance(decoded, dict):
        raise ManifestError(f"a manifest is a JSON object, not {_kind(decoded)}", file)
    return decoded


def _files(fields: "_Fields") -> Iterator[str]:
    for index, name in enumerate(fields.items("file_list")):
        place = f"file_list[{index}]"
        if not isinstance(name, str):
            raise fields.wrong(place, f"expected a file name, got {_kind(name)}")
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise fields.wrong(place, f"{name!r} is not a file inside the bundle")
        yield str(PurePosixPath(name))


def _hooks(middleware: "_Fields") -> Iterator[ListedHook]:
    for key, hook_type in HOOK_TYPES.items():
        if key == "auth_check":
            entry = middleware.sub(key)
            entries = [entry] if entry.text("name") else []
        else:
            entries = middleware.subs(key)
        for entry in entries:
            hook = _hook(entry, hook_type)
            yield hook
            yield from _chain(entry, hook)


def _hook(entry: "_Fields", hook_type: str) -> ListedHook:
    name = entry.text("name")
    if not name:
        raise entry.wrong("name", "the hook's function name is missing")
    return ListedHook(name, hook_type, entry.flag("disabled"), entry.flag("raw_body_only"), entry.seconds("timeout"))


def _chain(entry: "_Fields", whole: ListedHook) -> Iterator[ListedHook]:
    """Yield the hooks that an entry `*` lists; they are disabled if it is."""
    entries = entry.subs("chain")
    if entries and whole.name != CHAIN_NAME:
        raise entry.wrong("chain", f'only an entry "{CHAIN_NAME}" has one')
    for inner in entries:
        hook = _hook(inner, whole.hook_type)
        if hook.name == CHAIN_NAME:
            raise inner.wrong("name", f'a chain lists hooks, and "{CHAIN_NAME}" is none')
        yield replace(hook, in_chain=True, disabled=hook.disabled or whole.disabled)


class _Fields:
    """One JSON object of the manifest, and its path, so that an error can name the field."""

    def __init__(self, values: dict[str, Any], place: str, file: str) -> None:
        self._values = values
        self._place = place
        self._file = file

    def text(self, name: str) -> str:
        return str(self._typed(name, str, "a string", ""))

    def flag(self, name: str) -> bool:
        return bool(self._typed(name, bool, "true or false", False))

    def items(self, name: str) -> list[Any]:
        return list(self._typed(name, list, "a list", []))

    def sub(self, name: str) -> "_Fields":
        return self.inner(name, self._typed(name, dict, "an object", {}))

    def subs(self, name: str) -> list["_Fields"]:
        return [self.inner(f"{name}[{index}]", value) for index, value in enumerate(self.items(name))]

    def inner(self, name: str, value: Any) -> "_Fields":
        if not isinstance(value, dict):
            raise self.wrong(name, f"expected an object, got {_kind(value)}")
        return _Fields(value, f"{self._place}{name}.", self._file)

    def seconds(self, name: str) -> float | None:
        value = self._values.get(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
            raise self.wrong(name, f"expected seconds above 0, got {value!r}")
        return float(value)

    def wrong(self, name: str, message: str) -> ManifestError:
        return ManifestError(f"{self._place}{name}: {message}", self._file)

    def _typed(self, name: str, wanted: type, described: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, wanted):
            raise self.wrong(name, f"expected {described}, got {_kind(value)}")
        return value


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _KINDS.get(type(value), "a number")
