"""What bundles are called by people: their names in the API definitions, and the APIs that use them.

A gateway unpacks a bundle into a folder named by the MD5 of its name, and names it so in every call. The name is in its
API definitions, the APIs are in them and in the calls.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tykpy.broker.catalog.api_definitions import ApiDefinitions, ApiUse
from tykpy.telemetry.names import annotated

SETTLING: Final = 1.0
"""Seconds from the first call of an API that is new to reading the definitions again: others may follow."""
MAX_SEEN: Final = 10_000
"""APIs seen in calls; then all are forgotten, those in use come back."""
MAX_ID: Final = 64
"""Characters of an API's id and of a bundle's hash; real ones have 32."""
MAX_TEXT: Final = 200
"""Characters of what the log says of one bundle."""
MAX_TEXTS: Final = 2_000
"""Bundles that the log knows, so that a message with all of them fits a worker's control socket."""
MAX_SHOWN: Final = 3
"""APIs that the log and tables name."""
_HASH: Final = re.compile("[0-9a-f]{32}")

Api = dict[str, str]
"""`id` and `name` of an API; the name is empty where only calls say that there is such an API."""


class BundleNames:
    """Names by MD5, from definitions and calls."""

    def __init__(
        self,
        folder: Path | None,
        loop: asyncio.AbstractEventLoop | None = None,
        tell: Callable[[Mapping[str, str]], object] = lambda _texts: None,
    ) -> None:
        """`folder`: of API definitions, read at `refresh`; on a `loop` also when calls show an API that is new.

        `tell` is called with `texts` whenever they have changed.
        """
        self._definitions = None if folder is None else ApiDefinitions(folder)
        self._uses: dict[str, list[ApiUse]] = {}
        """By MD5 of the bundle's name."""
        self._defined: set[str] = set()
        """Ids of the APIs that have a definition with a bundle."""
        self._seen: dict[tuple[str, str], None] = {}
        """MD5 and API's id."""
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._tell = tell
        self.texts: Mapping[str, str] = {}
        """What the log adds to an MD5."""

    def note(self, api_id: str, bundle_hash: str) -> None:
        """Take from a call that an API uses a bundle."""
        key = bundle_hash, api_id
        if key in self._seen or not api_id or max(len(api_id), len(bundle_hash)) > MAX_ID:
            return
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen[key] = None
        if self._loop is not None and self._timer is None:
            self._timer = self._loop.call_later(SETTLING, self._settled)

    def refresh(self) -> None:
        """Read the definitions that have changed."""
        uses = [] if self._definitions is None else self._definitions.read()
        self._uses = {}
        # Of an OAS API there are two files, which say the same.
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

    def _settled(self) -> None:
        self._timer = None
        self.refresh()


def text_of(bundle: Mapping[str, Any]) -> str:
    """Return what a log or message adds to a bundle's MD5, from what `describe` says; empty: nothing is known."""
    apis = bundle["apis"]
    shown = f"API{'s' * (len(apis) > 1)} {shown_apis(apis)}" if apis else ""
    return "; ".join(part for part in (bundle["bundle"], shown) if part)[:MAX_TEXT]


def explain(message: str, bundles: Iterable[Mapping[str, Any]]) -> str:
    """Return a message about some of these described bundles with their names and APIs in it."""
    return annotated(message, {bundle["name"]: text for bundle in bundles if (text := text_of(bundle))})


def shown_apis(apis: list[Api]) -> str:
    """Return the names of APIs, or their ids, on one line; of many, the first few and how many more there are."""
    names = [api["name"] or api["id"] for api in apis]
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def hashes_of(name: str) -> list[str]:
    """Return the hashes by which a gateway may name what is called so in the folder of bundles."""
    if _HASH.fullmatch(name.lower()):
        return [name.lower()]
    stem = name.removesuffix(".py").removesuffix(".zip")
    return [_md5(one) for one in dict.fromkeys((name, stem, f"{stem}.zip"))]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def columns_of(bundle: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a bundle's name in the folder, its name in the API definitions, and its APIs, for a table."""
    return bundle["name"], bundle["bundle"], shown_apis(bundle["apis"])
