"""Which bundle each API uses, from dispatches and from the broker: an event names its API only."""

from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from tykpy.ipc.clock import monotonic

MAX_REMEMBERED_APIS: Final = 10_000
"""APIs whose bundle is remembered for their events; a gateway has hundreds."""
MAX_NAMES: Final = 256
"""Longest API id and bundle hash together that are remembered, in characters (real ones have 64)."""
NOTICE_S: Final = 0.1
"""Longest wait of an event for the broker's notice, in seconds: normally a millisecond, and once for each API."""


class ApiBundles:
    """Safe to use from many threads, without a lock."""

    def __init__(self) -> None:
        self._hashes: dict[str, str] = {}
        self._awaited: set[str] = set()
        self._waiting: list[SimpleQueue[None]] = []
        """One entry for each event that waits."""

    def learn(self, bundle_hashes: Mapping[str, str]) -> None:
        """Remember which bundles APIs use, as the broker saw."""
        if len(self._hashes) + len(bundle_hashes) > MAX_REMEMBERED_APIS:
            self._hashes.clear()
        self._hashes.update(bundle_hashes)
        for waiting in list(self._waiting):
            waiting.put(None)

    def remember(self, api: str, bundle_hash: str) -> None:
        """Remember the bundle of an API from a dispatch."""
        if self._hashes.get(api) != bundle_hash and len(api) + len(bundle_hash) <= MAX_NAMES:
            self.learn({api: bundle_hash})

    def find(self, api: str) -> str | None:
        """Return the hash of the bundle that the API uses, or None.

        A gateway sends an event right behind the dispatch that caused it, and the broker's notice of that dispatch is
        read by another thread: it may arrive a moment after the event.
        """
        if api not in self._hashes and api not in self._awaited and len(api) <= MAX_NAMES:
            self._await(api)
        return self._hashes.get(api)

    def _await(self, api: str) -> None:
        learnt: SimpleQueue[None] = SimpleQueue()
        self._waiting.append(learnt)
        end_s = monotonic() + NOTICE_S
        with suppress(Empty):
            while api not in self._hashes:
                learnt.get(timeout=max(0.0, end_s - monotonic()))
        self._waiting.remove(learnt)
        if len(self._awaited) >= MAX_REMEMBERED_APIS:
            self._awaited.clear()
        self._awaited.add(api)
