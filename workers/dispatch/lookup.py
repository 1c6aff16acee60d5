"""Find the hooks that a dispatch names. An error about a missing one lists what there is."""

from collections.abc import Iterable
from typing import Any, Final

from tykpy.bundles.bundle import AUTH_TYPE, Bundle, Chain
from tykpy.bundles.errors import EVENT_META, WorkerError
from tykpy.bundles.files.discovery import EMPTY_NAME_HASH
from tykpy.bundles.files.manifest import CHAIN_NAME
from tykpy.bundles.hook import Hook
from tykpy.bundles.registry import BundleStore
from tykpy.ipc.frame import Status

_NO_BUNDLE: Final = frozenset({"", EMPTY_NAME_HASH})
_MAX_LISTED: Final = 20
"""Number of names in an error, which must fit into a gRPC trailer."""


class Lookup:
    """Finds hooks, chains and event handlers. Methods raise WorkerError if there is nothing to run."""

    def __init__(self, store: BundleStore) -> None:
        """Look in `store`."""
        self._store = store

    def hook(self, bundle_hash: str, name: str) -> Hook:
        """Return the hook `name` of one bundle, or of any bundle if the call names none."""
        hook = self._anywhere(name) if bundle_hash in _NO_BUNDLE else self._in_bundle(bundle_hash, name)
        if hook.shape.is_event:
            message = f"hook {name} of bundle {hook.bundle} handles events ({hook.shape.signature}), not requests"
            raise WorkerError(Status.HOOK_FAILED, f"{message} ({hook.file}:{hook.line})", _meta(hook.bundle, name))
        return hook

    def chain(self, bundle_hash: str, hook_type: str) -> Chain:
        """Return all hooks of one type of a bundle, in the order in which they run; at least one."""
        bundle = self._only_bundle(hook_type) if bundle_hash in _NO_BUNDLE else self._bundle(bundle_hash)
        chain = bundle.chains[hook_type]
        meta = _meta(bundle.name, CHAIN_NAME)
        if chain.error is not None:
            message = f"the {hook_type} chain of bundle {bundle.name} cannot run: {chain.error}"
            raise WorkerError(Status.HOOK_FAILED, message, meta)
        if not chain.links:
            hooks = _listed(f"{hook.name} ({hook.definition.hook_type or 'Hook'})" for hook in bundle.hooks.values())
            message = f"bundle {bundle.name} has no {hook_type} hooks to run as a chain; it has: {hooks}"
            raise WorkerError(Status.NOT_FOUND, message, meta)
        if hook_type == AUTH_TYPE and len(chain.links) > 1:
            names = _listed(link.hook.name for link in chain.links)
            message = f"{AUTH_TYPE} does not chain, and bundle {bundle.name} has several: {names}"
            raise WorkerError(Status.HOOK_FAILED, message, meta)
        return chain

    def event_handler(self, name: str, bundle_hash: str | None) -> Hook:
        """Return the event handler `name` of the bundle that the event's API uses, or the only one of this name."""
        preferred = self._store.find(bundle_hash) if bundle_hash else None
        if preferred is not None:
            own = preferred.hooks.get(name)
            if own is not None and own.shape.is_event:
                return own
        found = self._event_handlers(name)
        if len(found) == 1:
            return found[0][1]
        error = _ambiguous(f"event handler {name}", (bundle for bundle, _ in found), name)
        raise WorkerError(error.status, error.message, {EVENT_META: name})

    def triggered_handlers(self, name: str, own: str) -> list[Hook]:
        """Return the handlers of a triggered event: those of the bundle `own`, or all if it has none."""
        found = self._event_handlers(name)
        owned = [hook for bundle, hook in found if any(part.name == own for part in bundle.parts)]
        return owned or [hook for _, hook in found]

    @property
    def has_events(self) -> bool:
        """Whether any bundle handles events."""
        return any(bundle.has_events for bundle in self._store.loaded())

    def _in_bundle(self, bundle_hash: str, name: str) -> Hook:
        bundle = self._bundle(bundle_hash)
        hook = bundle.hooks.get(name)
        if hook is None:
            raise _missing(bundle, name)
        return hook

    def _bundle(self, bundle_hash: str) -> Bundle:
        bundle = self._store.find(bundle_hash)
        if bundle is not None:
            return bundle
        places = ", ".join(map(str, self._store.sources)) or "no folder"
        there = _listed(bundle.name for bundle in self._store.loaded() if not bundle.is_other_file)
        message = f"no bundle with the hash {bundle_hash} in {places}; there are: {there}"
        raise WorkerError(Status.NOT_FOUND, message, {"bundle": bundle_hash})

    def _anywhere(self, name: str) -> Hook:
        found = [bundle for bundle in self._store.loaded() if name in bundle.hooks]
        if len(found) > 1:
            raise _ambiguous(f"hook {name}", found, name)
        if found:
            return found[0].hooks[name]
        faulty = next((bundle for bundle in self._store.loaded() if name in bundle.faulty), None)
        if faulty is not None:
            raise _missing(faulty, name)
        hooks = _listed(f"{hook.name} ({hook.bundle})" for hook in self._all_hooks())
        broken = _listed(bundle.name for bundle in self._store.loaded() if bundle.error is not None)
        suffix = f"; bundles that cannot be loaded: {broken}" if broken != "none" else ""
        message = f"no bundle has a hook {name}, and the call names no bundle; hooks are: {hooks}{suffix}"
        raise WorkerError(Status.NOT_FOUND, message, {"hook": name})

    def _only_bundle(self, hook_type: str) -> Bundle:
        found = self._bundles_chaining(hook_type)
        if not found:
            message = f"no bundle has {hook_type} hooks, and the call names no bundle"
            raise WorkerError(Status.NOT_FOUND, message, {"hook": CHAIN_NAME})
        if len(found) > 1:
            raise _ambiguous(f"a {hook_type} chain", found, CHAIN_NAME)
        return found[0]

    def _bundles_chaining(self, hook_type: str) -> list[Bundle]:
        """Return the bundles with such a chain; if there are none, those that cannot be loaded."""
        loaded = self._store.loaded()
        found = [bundle for bundle in loaded if bundle.error is None and any(bundle.chains[hook_type])]
        return found or [bundle for bundle in loaded if bundle.error is not None]

    def _event_handlers(self, name: str) -> list[tuple[Bundle, Hook]]:
        """Return the handlers called `name`, at least one."""
        named = ((bundle, bundle.hooks.get(name)) for bundle in self._store.loaded())
        found = [(bundle, hook) for bundle, hook in named if hook is not None and hook.shape.is_event]
        if not found:
            handlers = (hook.name for hook in self._all_hooks() if hook.shape.is_event)
            message = f"no bundle has an @Event handler {name}; there are: {_listed(handlers)}"
            raise WorkerError(Status.NOT_FOUND, message, {EVENT_META: name})
        return found

    def _all_hooks(self) -> Iterable[Hook]:
        return (hook for bundle in self._store.loaded() for hook in bundle.hooks.values())


def _missing(bundle: Bundle, name: str) -> WorkerError:
    faulty = bundle.faulty.get(name)
    meta = _meta(bundle.name, name)
    if faulty is not None:
        status = Status.NOT_FOUND if faulty.missing else Status.HOOK_FAILED
        return WorkerError(status, f"hook {name} of bundle {bundle.name} cannot run: {faulty.error}", meta)
    if bundle.error is not None:
        return WorkerError(Status.HOOK_FAILED, f"bundle {bundle.name} cannot be loaded: {bundle.error}", meta)
    hooks = _listed(bundle.hooks)
    return WorkerError(Status.NOT_FOUND, f"bundle {bundle.name} has no hook {name}; it has: {hooks}", meta)


def _ambiguous(what: str, bundles: Iterable[Bundle], name: str) -> WorkerError:
    there = _listed(bundle.name for bundle in bundles)
    message = f"{what} is in several bundles, and the call names none: {there}"
    return WorkerError(Status.NOT_FOUND, message, {"hook": name})


def _meta(bundle: str, hook: str) -> dict[str, Any]:
    return {"bundle": bundle, "hook": hook}


def _listed(names: Iterable[str]) -> str:
    there = list(names)
    more = f" and {len(there) - _MAX_LISTED} more" if len(there) > _MAX_LISTED else ""
    return (", ".join(there[:_MAX_LISTED]) + more) or "none"
