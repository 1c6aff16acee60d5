"""What a registry reports about each bundle that it loads, and which bundles it must not import."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tykpy.bundles.load_guard import LoadGuard
from tykpy.bundles.patched_modules import Primitives


class BundleSource(NamedTuple):
    """A bundle that is about to be loaded."""

    path: str
    name: str
    version: str
    """Names the content of its files."""


class LoadReport:
    """Hears what is loaded; this one ignores it, for a store that nobody listens to."""

    def loading(self, source: BundleSource) -> None:
        """A bundle's code runs from now on; if the process ends or hangs, it is to blame."""

    def loaded(self, description: dict[str, Any]) -> None:
        """The bundle is loaded, or broken."""

    def replaced(self, source: BundleSource, names: list[str]) -> None:
        """The bundle has replaced these functions of the standard library while it was loaded."""

    def gone(self, path: str) -> None:
        """There is no bundle at this path: a file without hooks."""


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

    def reason(self, source: BundleSource) -> str | None:
        """Why this must not be imported, or None."""
        broken = self._broken.get(source.path)
        return broken.reason if broken is not None and broken.version in ("", source.version) else None


@dataclass(slots=True)
class LoadObserver:
    """Who watches a store load: hears of each bundle, says which are not to be imported, and guards the process."""

    report: LoadReport = field(default_factory=LoadReport)
    broken: BrokenBundles = field(default_factory=BrokenBundles)
    guard: LoadGuard = field(default_factory=LoadGuard)
    primitives: Primitives = field(default_factory=Primitives)

    def look_for_replaced(self, source: BundleSource) -> None:
        """LoadReport what a bundle has replaced in the standard library."""
        if names := self.primitives.replaced():
            self.report.replaced(source, names)
