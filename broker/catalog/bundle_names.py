"""Names of bundles and the APIs that use them, from the gateway's API definitions and from calls.

A gateway unpacks a bundle into a folder named after the MD5 of its name, and uses the MD5 in every call. The name is in
its API definitions (`app_path`, classic and OAS), the APIs are there and in the calls.

Sources: Tyk's apidef/api_definitions.go (`CustomMiddlewareBundle`), apidef/oas/middleware.go (`PluginBundle`) and
apidef/oas/root.go (`Info`).
"""

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tykpy.broker.catalog.bundle_folder import Stamp, stamp_of_file
from tykpy.ipc.regular_file import open_regular
from tykpy.ipc.text import why_unread
from tykpy.telemetry.names import annotated

log = logging.getLogger("tykpy.broker")

MAX_FILES: Final = 10_000
MAX_BYTES: Final = 16 * 1024 * 1024
"""Largest definition that is read; OAS definitions have up to a few MiB."""


class ApiUse(NamedTuple):
    """An API, and the bundle that it uses."""

    api_id: str
    api_name: str
    bundle: str
    """As in the definition; from Tyk v5.15 on it may be several, with commas between."""


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
    """The definitions in one folder; only files that have changed are read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Stamp, ApiUse | None]] = {}
        self._complaint = ""

    def read(self) -> list[ApiUse]:
        """Return the APIs that use a bundle. A file that cannot be read is logged once, and left out."""
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
        with open_regular(path) as file:
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


REFRESH_DELAY: Final = 1.0
"""Seconds from the first call of a new API until the definitions are read again: others may follow."""
MAX_SEEN: Final = 10_000
"""Most APIs remembered from calls; then all are forgotten, and those in use come back."""
MAX_ID: Final = 64
"""Longest API id and bundle hash that are remembered, in characters (real ones have 32)."""
MAX_TEXT: Final = 200
"""Longest text that the log adds to a bundle, in characters."""
MAX_TEXTS: Final = 2_000
"""Most bundles that the log knows, so that one message to a worker holds them all."""
MAX_SHOWN: Final = 3
"""APIs of one bundle named in the log and in tables."""
_HASH: Final = re.compile("[0-9a-f]{32}")

Api = dict[str, str]
"""`id` and `name` of an API; the name is empty for one that is known only from calls."""


class BundleNames:
    """Names of bundles by MD5, from definitions and calls."""

    def __init__(
        self,
        folder: Path | None,
        loop: asyncio.AbstractEventLoop | None = None,
        tell: Callable[[Mapping[str, str]], object] = lambda _texts: None,
    ) -> None:
        """`folder`: of API definitions, read at `refresh` and, with a `loop`, a moment after the first call of an API.

        `tell` is called with `texts` whenever they have changed.
        """
        self._definitions = None if folder is None else ApiDefinitions(folder)
        self._uses: dict[str, list[ApiUse]] = {}
        """By MD5 of the bundle's name."""
        self._defined: set[str] = set()
        """Ids of the APIs whose definition has a bundle."""
        self._seen: dict[tuple[str, str], None] = {}
        """MD5 of the bundle and id of the API, from calls."""
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._tell = tell
        self.texts: Mapping[str, str] = {}
        """Texts that the log adds to an MD5."""

    def note(self, api_id: str, bundle_hash: str) -> None:
        """Remember from a call that an API uses a bundle."""
        key = bundle_hash, api_id
        if key in self._seen or not api_id or max(len(api_id), len(bundle_hash)) > MAX_ID:
            return
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen[key] = None
        if self._loop is not None and self._timer is None:
            self._timer = self._loop.call_later(REFRESH_DELAY, self._refresh_late)

    def refresh(self) -> None:
        """Read the definitions that have changed."""
        uses = [] if self._definitions is None else self._definitions.read()
        self._uses = {}
        # An OAS API has two files, which say the same.
        by_id = {use.api_id or use.api_name: use for use in uses}
        for use in sorted(by_id.values(), key=lambda one: (one.api_name, one.api_id)):
            self._uses.setdefault(_md5(use.bundle), []).append(use)
        self._defined = {use.api_id for use in uses}
        digests = dict.fromkeys([*self._uses, *(digest for digest, _ in self._seen)])
        texts = {digest: text for digest in list(digests)[:MAX_TEXTS] if (text := text_of(self.describe([digest])))}
        if texts != self.texts:
            self.texts = texts
            self._tell(texts)

    def describe(self, hashes: Iterable[str]) -> dict[str, Any]:
        """Return what is known of a bundle with any of these hashes: `bundle`, its name or empty, and `apis`."""
        wanted = set(hashes)
        uses = [use for digest in wanted for use in self._uses.get(digest, ())]
        apis: list[Api] = [{"id": use.api_id, "name": use.api_name} for use in uses]
        apis += [
            {"id": api_id, "name": ""}
            for digest, api_id in self._seen
            if digest in wanted and api_id not in self._defined
        ]
        return {"bundle": uses[0].bundle if uses else "", "apis": apis}

    def _refresh_late(self) -> None:
        self._timer = None
        self.refresh()


def text_of(bundle: Mapping[str, Any]) -> str:
    """Return the text that a log or message adds to a bundle's MD5, from `describe`; empty if nothing is known."""
    apis = bundle["apis"]
    shown = f"API{'s' * (len(apis) > 1)} {shown_apis(apis)}" if apis else ""
    return "; ".join(part for part in (bundle["bundle"], shown) if part)[:MAX_TEXT]


def explain(message: str, bundles: Iterable[Mapping[str, Any]]) -> str:
    """Add the names and APIs of these described bundles to a message about them."""
    return annotated(message, {bundle["name"]: text for bundle in bundles if (text := text_of(bundle))})


def shown_apis(apis: list[Api]) -> str:
    """Return the names of the first few APIs, or their ids, and how many more there are."""
    names = [api["name"] or api["id"] for api in apis]
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def hashes_of(name: str) -> list[str]:
    """Return the hashes by which a gateway may call an entry of the folder of bundles."""
    if _HASH.fullmatch(name.lower()):
        return [name.lower()]
    stem = name.removesuffix(".py").removesuffix(".zip")
    return [_md5(one) for one in dict.fromkeys((name, stem, f"{stem}.zip"))]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def columns_of(bundle: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a bundle's name in the folder, its name in the API definitions, and its APIs, for a table."""
    return bundle["name"], bundle["bundle"], shown_apis(bundle["apis"])
