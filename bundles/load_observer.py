"""What a registry reports about each bundle that it loads, and which bundles it must not import."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tykpy.bundles.bundle import BundlePart
from tykpy.bundles.load_guard import LoadGuard


class BundleSource(NamedTuple):
    """A bundle that is about to be loaded."""

    path: str
    name: str
    version: str
    """Names the content of its files."""


class LoadReport:
    """Receives what happens while bundles are loaded; this one ignores it."""

    def loading(self, source: BundleSource) -> None:
        """Note that a bundle's code runs from now on; it is to blame if the process ends or hangs."""

    def loaded(self, description: dict[str, Any]) -> None:
        """Note that the bundle is loaded, or broken."""

    def replaced(self, source: BundleSource, names: list[str]) -> None:
        """Note which functions of the standard library the bundle replaced while it was loaded."""

    def gone(self, path: str) -> None:
        """Note that there is no bundle at this path: a file without hooks."""


@dataclass(slots=True)
class LoadObserver:
    """Observes a registry's loads: reports and starts bundles, guards the process, names what must not be imported."""

    report: LoadReport = field(default_factory=LoadReport)
    guard: LoadGuard = field(default_factory=LoadGuard)
    start: Callable[[BundlePart], object] = lambda _part: None
    """Runs the `on_start` functions of a part that was loaded; raises BundleError."""
    _blocked: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Version ("": any) and reason by path, of bundles that ended or hung a worker. One thread writes, others read."""

    def block(self, told: Mapping[str, str]) -> None:
        """Take over from the broker which bundle must not be imported: path, version and reason."""
        self._blocked[told["path"]] = told["version"], told["reason"]

    def why_blocked(self, source: BundleSource) -> str | None:
        """Return why this must not be imported, or None."""
        version, reason = self._blocked.get(source.path, (None, None))
        return reason if version in ("", source.version) else None

    def report_replaced(self, source: BundleSource) -> None:
        """Report what a bundle has replaced in the standard library."""
        if names := self.guard.replaced():
            self.report.replaced(source, names)
