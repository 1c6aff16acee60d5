"""How what is loaded is spread over the workers: what to show of it, and which hooks only some workers can run.

Most of the time all workers have loaded the same. They have not where a bundle takes something at import that only one
process can have (a port, a lock file), and where files changed while workers were started.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from tykpy.broker.catalog.bundle_report import Description, problems_of
from tykpy.broker.router.hook_table import CHAIN_NAME, EVENT_SHAPE, NO_BUNDLE, HookKey, Restrictions
from tykpy.broker.router.link import Link

Bundle = dict[str, Any]
Signature = frozenset[tuple[object, ...]]
Sets = dict[Any, frozenset[Link]]


class Loaded(NamedTuple):
    """Workers that have loaded the same, and what that is."""

    links: Collection[Link]
    description: Description


class Spread(NamedTuple):
    """What all workers together have loaded."""

    description: Description
    """Every bundle once, as a worker describes it that has loaded it; `loaded_in` and `workers` count workers.

    Where others could not load it, `elsewhere` has their problems.
    """
    restrictions: Restrictions


def is_sound(bundle: Bundle) -> bool:
    """Whether all of the bundle could be loaded."""
    return not any(problems_of(bundle))


def signature_of(description: Description) -> Signature:
    """What is equal for workers that can run the same."""
    return frozenset((bundle["path"], *_facts(bundle)) for bundle in description)


def spread_of(loaded: Sequence[Loaded], awaited: Iterable[Bundle] = ()) -> Spread:
    """Compare what the workers have loaded; the newest are the last.

    `awaited`: bundles that no worker has loaded at the moment and some worker will: their hooks wait for it.
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
    same = len({_facts(bundle) for _, bundle in copies}) == 1
    return same and links == frozenset().union(*(some for some, _ in copies))


def _facts(bundle: Bundle) -> tuple[object, ...]:
    # The hooks as well: code may define them or not, by what it finds when it is imported.
    return bundle["version"], is_sound(bundle), tuple(hook["name"] for hook in bundle["hooks"])


Copies = list[tuple[Collection[Link], Bundle]]


def _by_path(loaded: Sequence[Loaded]) -> dict[str, Copies]:
    """The descriptions of each bundle, the newest workers' first; bundles in the order of the newest worker."""
    found: dict[str, Copies] = {}
    for links, description in reversed(loaded):
        for bundle in description:
            found.setdefault(bundle["path"], []).append((links, bundle))
    return found


def _merged(copies: Copies, workers: int) -> Bundle:
    """The description to show: of the newest worker that has loaded all of it, or that has the most of its hooks."""
    best = max((bundle for _, bundle in copies), key=lambda bundle: (is_sound(bundle), len(bundle["hooks"])))
    loaded_in = sum(len(links) for links, bundle in copies if is_sound(bundle))
    merged = {**best, "loaded_in": loaded_in, "workers": workers}
    if loaded_in:
        elsewhere = dict.fromkeys(problem for _, bundle in copies for problem in problems_of(bundle))
        merged |= {"elsewhere": list(elsewhere)} if elsewhere else {}
    return merged


def _restrict(copies: Copies, links: frozenset[Link], hooks: Sets, handlers: Sets) -> None:
    """Find the workers for each hook of one bundle."""
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
    """Take only these links. Where several bundles have a hook of a name, only workers that have all of them."""
    for key, links in found.items():
        sets[key] = frozenset(links) & sets.get(key, links)


def _keys(bundle: Bundle) -> list[HookKey]:
    """How dispatches name what this worker can run of the bundle."""
    names = [hook["name"] for hook in bundle["hooks"]]
    if is_sound(bundle):
        names.append(CHAIN_NAME)
    return [(digest, name) for digest in (*bundle["hashes"], *NO_BUNDLE) for name in names]


def _handlers(bundle: Bundle) -> list[str]:
    return [hook["name"] for hook in bundle["hooks"] if hook["shape"] == EVENT_SHAPE]
