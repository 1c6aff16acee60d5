"""Reads which bundle each API uses from the gateway's API definitions (`app_path`), classic and OAS.

Sources: Tyk's apidef/api_definitions.go (`CustomMiddlewareBundle`), apidef/oas/middleware.go (`PluginBundle`) and
apidef/oas/root.go (`Info`).
"""

import logging
import os
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tykpy.broker.catalog.file_watch import Stamp, stamp_of_file
from tykpy.ipc.text import why_unread

log = logging.getLogger("tykpy.broker")

MAX_FILES: Final = 10_000
MAX_BYTES: Final = 16 * 1024 * 1024
"""Of one file; OAS definitions have up to a few MiB."""


class ApiUse(NamedTuple):
    """An API, and the bundle that it uses."""

    api_id: str
    api_name: str
    bundle: str
    """As the definition has it; several of them with commas between, from Tyk v5.15 on."""


class _Info(msgspec.Struct):
    id: str = ""
    name: str = ""


class _Bundle(msgspec.Struct):
    enabled: bool = False
    path: str = ""


class _PluginConfig(msgspec.Struct, rename="camel"):
    bundle: _Bundle | None = None


class _Global(msgspec.Struct, rename="camel"):
    plugin_config: _PluginConfig | None = None


class _Middleware(msgspec.Struct, rename={"global_": "global"}):
    global_: _Global | None = None


class _Extension(msgspec.Struct):
    info: _Info | None = None
    middleware: _Middleware | None = None


class _Definition(msgspec.Struct, rename={"extension": "x-tyk-api-gateway"}):
    api_id: str = ""
    name: str = ""
    custom_middleware_bundle: str = ""
    custom_middleware_bundle_disabled: bool = False
    extension: _Extension | None = None


_decode: Final = msgspec.json.Decoder(_Definition).decode


class ApiDefinitions:
    """The definitions in one folder; files that have not changed are not read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Stamp, ApiUse | None]] = {}
        self._complaint = ""

    def read(self) -> list[ApiUse]:
        """Return the APIs that use a bundle. What cannot be read is logged, once, and left out."""
        known, self._known = self._known, {}
        for path in self._paths():
            stamp = stamp_of_file(path)
            before = known.get(path)
            self._known[path] = before if before is not None and before[0] == stamp else (stamp, _read(path))
        return [use for _, use in self._known.values() if use is not None]

    def _paths(self) -> list[str]:
        complaint = ""
        paths: list[str] = []
        try:
            with os.scandir(self._folder) as entries:
                paths = sorted(entry.path for entry in entries if entry.name.endswith(".json"))
        except OSError as error:
            complaint = f"--apis {self._folder} cannot be read: {why_unread(error)}; bundles are shown by their MD5"
        if len(paths) > MAX_FILES:
            complaint = f"--apis {self._folder} has {len(paths)} definitions; the first {MAX_FILES} are read"
        if complaint and complaint != self._complaint:
            log.warning("%s", complaint)
        self._complaint = complaint
        return paths[:MAX_FILES]


def _read(path: str) -> ApiUse | None:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        return _use_of(_decode(content))
    except OSError as error:
        why = why_unread(error)
    except (ValueError, RecursionError) as error:
        why = str(error)
    log.warning("the API definition %s cannot be read: %s", path, why)
    return None


def _use_of(definition: _Definition) -> ApiUse | None:
    extension = definition.extension
    if extension is not None:
        info, bundle = extension.info or _Info(), _oas_bundle(extension)
        return ApiUse(info.id, info.name, bundle.path) if bundle.enabled and bundle.path else None
    if definition.custom_middleware_bundle_disabled or not definition.custom_middleware_bundle:
        return None
    return ApiUse(definition.api_id, definition.name, definition.custom_middleware_bundle)


def _oas_bundle(extension: _Extension) -> _Bundle:
    globally = extension.middleware.global_ if extension.middleware is not None else None
    config = globally.plugin_config if globally is not None else None
    return (config.bundle if config is not None else None) or _Bundle()
