"""Compare what the workers have loaded, and tell the router and the log.

Most of the time all workers have loaded the same. They have not if a bundle takes something at import that only one
process can have (a port, a lock file), or if files changed while workers were starting. Then some hooks are restricted
to some workers.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from tykpy.broker.catalog.description import (
    BundleDescription,
    Description,
    Signature,
    bundle_problems,
    facts_of,
    is_sound,
)
from tykpy.broker.faults import each
from tykpy.broker.pool.worker import Worker
from tykpy.broker.router.hook_table import CHAIN_NAME, EVENT_SHAPE, NO_BUNDLE, HookKey, Restrictions
from tykpy.broker.router.link import Link
from tykpy.broker.router.router import Router

Sets = dict[Any, frozenset[Link]]


class Loaded(NamedTuple):
    """Workers that have loaded the same, and its description."""

    links: Collection[Link]
    description: Description


class Spread(NamedTuple):
    """What all workers together have loaded."""

    description: Description
    """Every bundle once, as a worker that has loaded it describes it; `loaded_in` and `workers` count workers.

    `elsewhere` has the problems of workers that could not load it, if there are any.
    """
    restrictions: Restrictions


def spread_of(loaded: Sequence[Loaded], awaited: Iterable[BundleDescription] = ()) -> Spread:
    """Merge what the workers have loaded; the newest workers are last.

    `awaited`: bundles that no worker has loaded now but some worker will: calls for their hooks wait.
    """
    links = frozenset(link for one in loaded for link in one.links)
    hooks: Sets = {}
    handlers: Sets = {}
    description = []
    for copies in _by_path(loaded).values():
        description.append(_merged(copies, len(links)))
        if not _is_everywhere(copies, links):
            _restrict(copies, links, hooks, handlers)
    for bundle in awaited:
        _limit(hooks, dict.fromkeys(_keys(bundle), frozenset()))
        _limit(handlers, dict.fromkeys(_handlers(bundle), frozenset()))
    return Spread(description, Restrictions(hooks, handlers))


def _is_everywhere(copies: "Copies", links: frozenset[Link]) -> bool:
    if len(copies) == 1:
        return links == frozenset(copies[0][0])
    same = len({facts_of(bundle) for _, bundle in copies}) == 1
    return same and links == frozenset().union(*(some for some, _ in copies))


Copies = list[tuple[Collection[Link], BundleDescription]]


def _by_path(loaded: Sequence[Loaded]) -> dict[str, Copies]:
    """Return the descriptions of each bundle, newest workers first; bundles in the order of the newest worker."""
    found: dict[str, Copies] = {}
    for links, description in reversed(loaded):
        for bundle in description:
            found.setdefault(bundle["path"], []).append((links, bundle))
    return found


def _merged(copies: Copies, workers: int) -> BundleDescription:
    """Return the description of the newest worker that has loaded all of the bundle, or most of its hooks."""
    best = max((bundle for _, bundle in copies), key=lambda bundle: (is_sound(bundle), len(bundle["hooks"])))
    loaded_in = sum(len(links) for links, bundle in copies if is_sound(bundle))
    merged = {**best, "loaded_in": loaded_in, "workers": workers}
    if loaded_in:
        elsewhere = dict.fromkeys(problem for _, bundle in copies for problem in bundle_problems(bundle))
        merged |= {"elsewhere": list(elsewhere)} if elsewhere else {}
    return merged


def _restrict(copies: Copies, links: frozenset[Link], hooks: Sets, handlers: Sets) -> None:
    """Find the workers that can run each hook of one bundle."""
    able: dict[HookKey, set[Link]] = {}
    handling: dict[str, set[Link]] = {}
    for some, bundle in copies:
        for key in _keys(bundle):
            able.setdefault(key, set()).update(some)
        for name in _handlers(bundle):
            handling.setdefault(name, set()).update(some)
    _limit(hooks, {key: found for key, found in able.items() if found != links})
    _limit(handlers, {name: found for name, found in handling.items() if found != links})


def _limit(sets: Sets, found: Mapping[Any, AbstractSet[Link]]) -> None:
    """Restrict hooks to these links. For a hook name of several bundles: to workers that have all of them."""
    for key, links in found.items():
        sets[key] = frozenset(links) & sets.get(key, links)


def _keys(bundle: BundleDescription) -> list[HookKey]:
    """Return the keys by which dispatches name the hooks of a bundle that a worker can run."""
    names = [hook["name"] for hook in bundle["hooks"]]
    if is_sound(bundle):
        names.append(CHAIN_NAME)
    return [(digest, name) for digest in (*bundle["hashes"], *NO_BUNDLE) for name in names]


def _handlers(bundle: BundleDescription) -> list[str]:
    return [hook["name"] for hook in bundle["hooks"] if hook["shape"] == EVENT_SHAPE]


log = logging.getLogger("tykpy.supervisor")

MAX_NAMED: Final = 3
"""Problems of one bundle in the log (`tykpy hooks` shows all)."""


class Publisher:
    """Publishes what is loaded whenever that may have changed; does nothing if it has not."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._told: object = None
        self._is_changing = False
        self._reported: set[tuple[object, ...]] = set()
        """What has been logged: path, version and kind of message."""

    def publish(self, serving: Iterable[Worker], awaited: list[dict[str, Any]]) -> None:
        """Publish what these workers have loaded; calls for the bundles `awaited` wait."""
        classes = _classes(serving)
        state = [(signature, frozenset(links)) for signature, (links, _) in classes.items()]
        # The workers themselves do not matter as long as all have loaded the same.
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
        """Log only at the end of the block, when several workers have been admitted, what they have loaded."""
        self._is_changing = True
        try:
            yield
        finally:
            self._is_changing = False
            each(self._report, self._router.hooks.description)

    def report_saved(self, worker: Worker) -> None:
        """Log once for each bundle that another version is served than is in the folder."""
        for bundle in worker.description if worker.saved else ():
            name = ("saved copy", bundle["path"], bundle["version"])
            if bundle["saved_copy"] and name not in self._reported:
                self._reported.add(name)
                log.warning("bundle %s %s", bundle["name"], bundle["saved_copy"])

    def start_afresh(self) -> None:
        """Log everything again: there is new code."""
        self._reported.clear()

    def _report(self, bundle: dict[str, Any]) -> None:
        """Log once for each version of a bundle what is wrong with it, in all workers or in some."""
        problems = bundle.get("elsewhere") or list(bundle_problems(bundle))
        name = (bundle["path"], bundle["version"], "elsewhere" in bundle)
        if not problems or name in self._reported:
            return
        self._reported.add(name)
        where = "loaded in some workers only, which get its calls: " if "elsewhere" in bundle else ""
        more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        log.error("%s%s%s", where, "; ".join(problems[:MAX_NAMED]), more)


def merged(serving: Iterable[Worker]) -> Description:
    """Return the merged description of what these workers have loaded."""
    return spread_of(list(_classes(serving).values())).description


def _classes(serving: Iterable[Worker]) -> dict[Signature, Loaded]:
    """Group the workers by what they have loaded; the group of the newest worker is last."""
    classes: dict[Signature, Loaded] = {}
    for worker in sorted(serving, key=lambda one: one.generation):
        assert worker.link is not None
        links, _ = classes.pop(worker.signature, ([], None))
        classes[worker.signature] = Loaded([*links, worker.link], worker.description)
    return classes
