"""Tells the router, and the log, what the serving workers have loaded."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from tykpy.broker.catalog import bundle_report
from tykpy.broker.catalog.spread import Loaded, Signature, spread_of
from tykpy.broker.faults import each
from tykpy.broker.pool.worker import Worker
from tykpy.broker.router.router import Router

log = logging.getLogger("tykpy.supervisor")

MAX_NAMED: Final = 3
"""Problems of one bundle in the log; `tykpy hooks` shows all."""


class Publisher:
    """Compares the workers whenever one of them may have changed; does nothing where none has."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._told: object = None
        self._is_changing = False
        self._reported: set[tuple[object, ...]] = set()
        """Of which bundles the log says how they are loaded: path, version, and what it says."""

    def publish(self, serving: Iterable[Worker], awaited: list[dict[str, Any]]) -> None:
        """Tell what these workers have loaded; calls for the bundles `awaited` wait."""
        classes = _classes(serving)
        state = [(signature, frozenset(links)) for signature, (links, _) in classes.items()]
        # Which workers there are does not matter as long as all have loaded the same.
        now = (state if len(state) > 1 or awaited else list(classes), awaited)
        if not classes or now == self._told:
            return
        self._told = now
        spread = spread_of(list(classes.values()), awaited)
        self._router.learn(spread.description, spread.restrictions)
        if not self._is_changing:
            each(self._report, spread.description)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Report only in the end, when several workers have been let in, what they have loaded."""
        self._is_changing = True
        try:
            yield
        finally:
            self._is_changing = False
            each(self._report, self._router.hooks.description)

    def report_kept(self, worker: Worker) -> None:
        """Say once of each bundle that another version is served than is there."""
        for bundle in worker.description if worker.kept else ():
            name = ("kept", bundle["path"], bundle["version"])
            if bundle["kept"] and name not in self._reported:
                self._reported.add(name)
                log.warning("bundle %s %s", bundle["name"], bundle["kept"])

    def start_afresh(self) -> None:
        """There is new code: say again what is to be said."""
        self._reported.clear()

    def _report(self, bundle: dict[str, Any]) -> None:
        """Say once for each version of a bundle what is wrong with it, in all workers or in some."""
        problems = bundle.get("elsewhere") or list(bundle_report.problems_of(bundle))
        name = (bundle["path"], bundle["version"], "elsewhere" in bundle)
        if not problems or name in self._reported:
            return
        self._reported.add(name)
        where = "loaded in some workers only, which get its calls: " if "elsewhere" in bundle else ""
        more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        log.error("%s%s%s", where, "; ".join(problems[:MAX_NAMED]), more)


def merged(serving: Iterable[Worker]) -> bundle_report.Description:
    """What all these workers together have loaded."""
    return spread_of(list(_classes(serving).values())).description


def _classes(serving: Iterable[Worker]) -> dict[Signature, Loaded]:
    """The workers by what they have loaded; those of the newest worker are the last."""
    classes: dict[Signature, Loaded] = {}
    for worker in sorted(serving, key=lambda one: one.generation):
        assert worker.link is not None
        links, _ = classes.pop(worker.signature, ([], None))
        classes[worker.signature] = Loaded([*links, worker.link], worker.description)
    return classes
