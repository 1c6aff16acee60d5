"""Tells the broker which bundle is being loaded, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgpack

from tykpy.bundles.load_guard import LoadGuard
from tykpy.bundles.patched_modules import Primitives
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.description import MAX_DESCRIBED, MAX_REPLACED, pieces_of
from tykpy.telemetry.log import Log

_log: Final = Log("tykpy.worker")


class Source(NamedTuple):
    """A bundle that is about to be loaded."""

    path: str
    name: str
    version: str
    """Names the content of its files."""


class Report:
    """Hears what is loaded; this one ignores it, for a store that nobody listens to."""

    def loading(self, source: Source) -> None:
        """A bundle's code runs from now on; if the process ends or hangs, it is to blame."""

    def loaded(self, description: dict[str, Any]) -> None:
        """The bundle is loaded, or broken."""

    def replaced(self, source: Source, names: list[str]) -> None:
        """The bundle has replaced these functions of the standard library while it was loaded."""

    def gone(self, path: str) -> None:
        """There is no bundle at this path: a file without hooks."""


class ControlReport(Report):
    """Writes it to the control socket."""

    def __init__(self, control: ControlSocket) -> None:
        self._control = control
        self._total = 0
        """Bytes of all descriptions so far."""

    def loading(self, source: Source) -> None:
        """Send it before any code of the bundle runs. Raises ControlClosedError, as the others do."""
        self._control.send("loading", source._asdict())

    def loaded(self, description: dict[str, Any]) -> None:
        """Send the description in pieces; its hooks are left out where all bundles together have too many."""
        pieces = list(pieces_of(description))
        size = sum(len(msgpack.packb(piece)) for piece in pieces)
        if self._total + size > MAX_DESCRIBED:
            _log.warning("bundle %s: all bundles have more hooks than the broker can know", description["name"])
            pieces = list(pieces_of({**description, "hooks": [], "faulty": []}))
            size = 0
        self._total += size
        for piece in pieces:
            self._control.send("bundle", piece)

    def replaced(self, source: Source, names: list[str]) -> None:
        """Send the first few names."""
        self._control.send("replaced", {**source._asdict(), "names": names[:MAX_REPLACED]})

    def gone(self, path: str) -> None:
        """Tell the broker that the file is no bundle."""
        self._control.send("gone", {"path": path})


class Broken(NamedTuple):
    """What the broker says of a bundle that must not be imported again."""

    version: str
    """Of its files; empty: of any."""
    reason: str


class BrokenBundles:
    """The bundles that ended or hung a worker, by their paths; written by one thread, read by others."""

    def __init__(self) -> None:
        self._broken: dict[str, Broken] = {}

    def add(self, told: Mapping[str, str]) -> None:
        """Take over what the broker says: path, version and reason."""
        self._broken[told["path"]] = Broken(told["version"], told["reason"])

    def reason(self, source: Source) -> str | None:
        """Why this must not be imported, or None."""
        broken = self._broken.get(source.path)
        return broken.reason if broken is not None and broken.version in ("", source.version) else None


@dataclass(slots=True)
class LoadWatch:
    """Who watches a store load: hears of each bundle, says which are not to be imported, and guards the process."""

    report: Report = field(default_factory=Report)
    broken: BrokenBundles = field(default_factory=BrokenBundles)
    guard: LoadGuard = field(default_factory=LoadGuard)
    primitives: Primitives = field(default_factory=Primitives)

    def look_for_replaced(self, source: Source) -> None:
        """Report what a bundle has replaced in the standard library."""
        if names := self.primitives.replaced():
            self.report.replaced(source, names)
