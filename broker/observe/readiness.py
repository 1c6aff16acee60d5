"""Whether calls should be sent to this broker: for `/readyz`, gRPC health and `tykpy health --ready`.

The gateway asks none of them: a broker that is not ready still answers what it is sent, as well as it can.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tykpy.broker.catalog.bundle_names import hashes_of
from tykpy.broker.codes import ServingStatus
from tykpy.telemetry.snapshot import LOADED, BundleState, NotReady, Snapshot

log = logging.getLogger("tykpy.broker")

ANY: Final = "any"
ALL: Final = "all"
MAX_SHOWN: Final = 5
"""Bundles that one reason names."""
BUNDLES: Final = "bundles"
"""The one reason that nothing else in the log mentions."""
BUNDLE_SERVICE: Final = "bundle/"
"""Prefix of the services of gRPC health that stand for one bundle."""


class Readiness:
    """Judges by `--require-bundles`."""

    def __init__(self, required: str) -> None:
        self._required = required
        self._names = [name.strip() for name in required.split(",") if name.strip()]

    def judge(
        self, ready: int, bundles: Sequence[BundleState], unloaded: Mapping[str, str], *, draining: bool
    ) -> list[NotReady]:
        """Return the reasons why the broker is not ready; none: it is. `ready`: workers that serve.

        `unloaded`: bundles in the folder that no worker has loaded, and why.
        """
        found = []
        if draining:
            found.append(NotReady("draining", "the broker is shutting down"))
        if not ready:
            # What the bundles are like is not known yet.
            found.append(NotReady("no_workers", "no worker is ready"))
        elif missing := self._missing(bundles, unloaded):
            found.append(NotReady(BUNDLES, f"{_shortened(missing)} (--require-bundles {self._required})"))
        return found

    def _missing(self, bundles: Sequence[BundleState], unloaded: Mapping[str, str]) -> list[str]:
        if self._required == ANY:
            if not (bundles or unloaded) or any(map(is_usable, bundles)):
                return []
            return ["no bundle is loaded"]
        if self._required == ALL:
            return [*(f"{one.name} is {one.flaw}" for one in bundles if one.flaw), *_reasons(unloaded)]
        usable = {one.name for one in bundles if is_usable(one)}
        return [f"{name} is not loaded" for name in self._names if usable.isdisjoint((name, *hashes_of(name)))]


class ReadinessLog:
    """Logs when required bundles are missing, and when they are not any more."""

    def __init__(self) -> None:
        self._missing = ""

    def see(self, reasons: Sequence[NotReady]) -> None:
        """Log if the bundles are to blame for something else than before."""
        if reasons and reasons[0].reason != BUNDLES:
            return
        missing = reasons[0].text if reasons else ""
        if missing == self._missing:
            return
        self._missing = missing
        if missing:
            log.warning("not ready: %s", missing)
        else:
            log.info("ready: the required bundles are loaded")


def is_usable(bundle: BundleState) -> bool:
    """Return whether some worker has loaded a bundle."""
    return bundle.state == LOADED and bundle.loaded_in > 0


def serving_statuses(
    snapshot: Snapshot, bundles: Iterable[BundleState], unloaded: Iterable[str], services: Iterable[str]
) -> dict[str, ServingStatus]:
    """Return the gRPC health of these services, which are the whole broker, and of every bundle."""
    broker = _status(not snapshot.not_ready)
    found = dict.fromkeys(services, broker)
    for name in unloaded:
        found[BUNDLE_SERVICE + name] = ServingStatus.NOT_SERVING
    for bundle in bundles:
        serves = is_usable(bundle) and snapshot.ready > 0 and not snapshot.draining
        found[BUNDLE_SERVICE + bundle.name] = _status(serves)
    return found


def _status(serves: bool) -> ServingStatus:
    return ServingStatus.SERVING if serves else ServingStatus.NOT_SERVING


def _reasons(unloaded: Mapping[str, str]) -> list[str]:
    return [f"{name}: {why}" for name, why in unloaded.items()]


def _shortened(problems: list[str]) -> str:
    more = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    return "; ".join(problems[:MAX_SHOWN]) + more
