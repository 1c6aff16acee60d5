"""Which bundle each API uses: an event says its API only. Seen in dispatches, and heard from other workers."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final

MAX_REMEMBERED_APIS: Final = 10_000
"""APIs whose bundle is remembered for their events; a gateway has hundreds."""
MAX_NAMES: Final = 256
"""Characters of an API's id and its bundle's hash that are remembered, here and in other workers; real ones have 64."""
HEARSAY_S: Final = 0.1
"""How long an event may wait for what another worker has just seen: normally a millisecond, and once for each API."""

Announce = Callable[[str, str], object]
"""Called with an API and its bundle's hash when both are seen together for the first time."""


class ApiBundles:
    """Safe to use from many threads, without a lock."""

    def __init__(self, announce: Announce) -> None:
        """`announce` what is seen here."""
        self._announce = announce
        self._hashes: dict[str, str] = {}
        self._announced: set[tuple[str, str]] = set()
        self._awaited: set[str] = set()
        self._waiting: list[SimpleQueue[None]] = []
        """Of each call that waits for something to be learnt."""

    def learn(self, bundle_hashes: Mapping[str, str]) -> None:
        """Take over which bundles APIs use, as another worker saw."""
        if len(self._hashes) + len(bundle_hashes) > MAX_REMEMBERED_APIS:
            self._hashes.clear()
        self._hashes.update(bundle_hashes)
        for waiting in list(self._waiting):
            waiting.put(None)

    def remember(self, api: str, bundle_hash: str) -> None:
        """Note what a dispatch says."""
        if self._hashes.get(api) == bundle_hash or len(api) + len(bundle_hash) > MAX_NAMES:
            return
        self.learn({api: bundle_hash})
        # Once each, also where two gateways use different bundles for one API.
        if (api, bundle_hash) in self._announced:
            return
        if len(self._announced) >= MAX_REMEMBERED_APIS:
            self._announced.clear()
        self._announced.add((api, bundle_hash))
        self._announce(api, bundle_hash)

    def find(self, api: str) -> str | None:
        """Return the hash of the bundle that the API uses, or None.

        A gateway sends an event right behind the dispatch that caused it: what the worker of that one announced may
        arrive, through another thread, a moment after the event.
        """
        if api not in self._hashes and api not in self._awaited and len(api) <= MAX_NAMES:
            self._await(api)
        return self._hashes.get(api)

    def _await(self, api: str) -> None:
        learnt: SimpleQueue[None] = SimpleQueue()
        self._waiting.append(learnt)
        end_s = monotonic() + HEARSAY_S
        with suppress(Empty):
            while api not in self._hashes:
                learnt.get(timeout=max(0.0, end_s - monotonic()))
        self._waiting.remove(learnt)
        if len(self._awaited) >= MAX_REMEMBERED_APIS:
            self._awaited.clear()
        self._awaited.add(api)
