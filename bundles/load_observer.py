"""Tell the broker which bundle is being loaded, and with what result; know which bundles must not be imported."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgpack

from tykpy.bundles.bundle import BundlePart
from tykpy.bundles.load_guard import LoadGuard
from tykpy.ipc.description import MAX_DESCRIBED, MAX_REPLACED, pieces_of
from tykpy.telemetry.log import Log

_log: Final = Log("tykpy.worker")


_sleep: Final = time.sleep
"""Bound before any plugin could replace it."""


class BundleSource(NamedTuple):
    """A bundle that is about to be loaded."""

    path: str
    name: str
    version: str
    """Names the content of its files."""


class LoadObserver:
    """Observes a registry's loads: reports and starts bundles, guards the process, names what must not be imported."""

    def __init__(
        self, send: Callable[[str, Any], object] = lambda _name, _body: None, guard: LoadGuard | None = None
    ) -> None:
        """`send`: sends a message to the broker; methods that report raise what it raises."""
        self.guard = guard or LoadGuard()
        self.start: Callable[[BundlePart], object] = lambda _part: None
        """Runs the `on_start` functions of a part that was loaded; raises BundleError."""
        self._send = send
        self._total = 0
        """Bytes of all descriptions so far."""
        self._blocked: dict[str, tuple[str, str]] = {}
        """Version ("": any) and reason by path, of bundles that ended or hung a worker. One thread writes, others
        read."""

        self._watched: dict[str, float] = {}
        """Seconds by path, of bundles that may have ended another worker, in the order in which they are loaded."""

    def loading(self, source: BundleSource) -> None:
        """Report that a bundle's code runs from now on; it is to blame if the process ends or hangs."""
        self._send("loading", source._asdict())

    def loaded(self, description: dict[str, Any]) -> None:
        """Report a bundle that is loaded, or broken, in pieces; without hooks if all bundles together have too many."""
        pieces = list(pieces_of(description))
        size = sum(len(msgpack.packb(piece)) for piece in pieces)
        if self._total + size > MAX_DESCRIBED:
            _log.warning("bundle %s: all bundles have more hooks than the broker can know", description["name"])
            pieces = list(pieces_of({**description, "hooks": [], "faulty": []}))
            size = 0
        self._total += size
        for piece in pieces:
            self._send("bundle", piece)

    def gone(self, path: str) -> None:
        """Report that there is no bundle at this path: a file without hooks."""
        self._send("gone", {"path": path})

    def report_replaced(self, source: BundleSource) -> None:
        """Report the first few functions of the standard library that a bundle has replaced while it was loaded."""
        if names := self.guard.replaced():
            self._send("replaced", {**source._asdict(), "names": names[:MAX_REPLACED]})

    def report_left(self, source: BundleSource) -> None:
        """Report what a bundle has left running; if it is a suspect, wait to see if that ends the process."""
        if self.guard.left:
            self._send("left_behind", {**source._asdict(), "kinds": sorted(self.guard.left)})
            _sleep(self._watched.get(source.path, 0.0))

    def watch(self, told: Mapping[str, Any]) -> None:
        """Take over from the broker which bundle to load before others and watch: path, and seconds to wait."""
        self._watched[told["path"]] = told["wait"]

    def rank(self, path: str) -> int:
        """Return the place of a bundle among those that are loaded first; all others come after them."""
        return list(self._watched).index(path) if path in self._watched else len(self._watched)

    def block(self, told: Mapping[str, str]) -> None:
        """Take over from the broker which bundle must not be imported: path, version and reason."""
        self._blocked[told["path"]] = told["version"], told["reason"]

    def why_blocked(self, source: BundleSource) -> str | None:
        """Return why this must not be imported, or None."""
        version, reason = self._blocked.get(source.path, (None, None))
        return reason if version in ("", source.version) else None
