"""The workers' hooks by bundle and name: find the hook that a dispatch calls, and the workers that can run it."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tykpy.broker.errors import DispatchError, Rejection
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import HookInfo
from tykpy.broker.router.hook_stats import AllHookStats
from tykpy.broker.router.link import Link
from tykpy.broker.router.peek import Peek, PeekError, peek, peek_handler, peek_map
from tykpy.ipc.bodies.store import Body
from tykpy.ipc.description import MAX_NAME
from tykpy.ipc.frame import Kind, Status

EMPTY_NAME_HASH: Final = "d41d8cd98f00b204e9800998ecf8427e"
"""MD5 of the empty string: the gateway sends it for an API without a bundle; hooks are then found by name."""
NO_BUNDLE: Final = (EMPTY_NAME_HASH, "")
"""Bundle hashes of calls that name no bundle."""
CHAIN_NAME: Final = "*"
"""The name that stands for all hooks of a bundle of one type."""
MAX_APIS: Final = 1_000
"""APIs of one hook that are remembered; at the limit all are forgotten, and noted again when they call."""
MAX_OLD_HANDLERS: Final = 1_000
"""Names of event handlers that are remembered although no worker has them any more; at the limit all are dropped."""
EVENT_SHAPE: Final = "event, spec"
"""How workers describe the arguments of an event handler."""
# Members of an enum cost more to look up and to compare than anything else in `identify`.
_OBJECT: Final = int(Kind.OBJECT)
_OBJECT_MAP: Final = int(Kind.OBJECT_MAP)

HookKey = tuple[str, str]
"""A bundle's hash and a hook's name, as a dispatch gives them."""


class Restrictions(NamedTuple):
    """The hooks that not every ready worker has loaded, each with the links of the workers that have."""

    hooks: Mapping[HookKey, frozenset[Link]]
    handlers: Mapping[str, frozenset[Link]]
    """Event handlers by name."""


UNRESTRICTED: Final = Restrictions({}, {})


class HookTable:
    """Hooks by bundle hash and name, as the workers describe them; each description replaces all of it."""

    def __init__(self) -> None:
        self.description: list[dict[str, Any]] = []
        """The bundles with their hooks, as the workers described them."""
        self.event_handlers: set[str] = set()
        """Names of `@Event` handlers that some worker has or had; a call that finds none removes the name."""
        self.groups: list[frozenset[Link]] = []
        """Sets of workers that have loaded what others have not; the first one is group 1 of the queue."""
        self.ask: Callable[[bool], bool] = lambda _is_broken: False
        """Called if no worker has a dispatch's bundle, with whether the bundle is known and broken; returns whether
        it is worth waiting for."""
        self.note_api: Callable[[str, str], object] = lambda _api_id, _bundle_hash: None
        """Called with an API's id and its bundle's hash when they are seen together for the first time."""
        self.awaits = False
        """Whether dispatches for bundles that no worker has wait."""
        self.stats = AllHookStats()
        self._bundles: dict[str, bool] = {}
        """Whether all of a bundle can be used, by its hashes; for calls that name none: False if any is broken."""
        unknown = self.stats.unknown
        self._names: dict[str, str] = {}
        """Names of bundles by their hashes."""
        self._awaited = HookInfo(unknown)
        self._is_last_awaited = False
        self._newest_handlers: set[str] = set()
        self._hooks: dict[HookKey, HookInfo] = {}
        self._handlers: dict[str, HookInfo] = {}
        self.unknown = HookInfo(unknown)
        """Stands in for a hook that no worker has described."""
        self._event = HookInfo(unknown)

    def update(self, description: list[dict[str, Any]], restrictions: Restrictions = UNRESTRICTED) -> None:
        """Replace the description; hooks known before keep what was learned about them."""
        found: dict[HookKey, HookInfo] = {}
        self._newest_handlers = set()
        self._bundles = {}
        self._names = {digest: bundle.get("name", "") for bundle in description for digest in bundle.get("hashes", ())}
        for bundle in description:
            usable = bundle.get("state") == "loaded" and not bundle.get("faulty")
            for digest in bundle.get("hashes", ()):
                self._bundles.setdefault(digest, usable)
                if usable:
                    found.setdefault((digest, CHAIN_NAME), self._chain((digest, CHAIN_NAME)))
            if not usable:
                self._bundles.update(dict.fromkeys(NO_BUNDLE, False))
            for hook in bundle.get("hooks", ()):
                if hook.get("shape") == EVENT_SHAPE:
                    self._newest_handlers.add(hook["name"])
                for digest in (*bundle.get("hashes", ()), *NO_BUNDLE):
                    found.setdefault((digest, hook["name"]), self._info(bundle, digest, hook))
        self.description = description
        self.event_handlers = {*self._newest_handlers, *self._old_handlers()}
        self._restrict(found, restrictions)
        self._hooks = found
        self.stats.keep({info.stats.id for info in found.values()})

    def identify(self, dispatch: Dispatch) -> HookInfo:
        """Return the hook that a dispatch is for, or an unknown one; set the dispatch's name and hook type.

        Raises DispatchError if the dispatch cannot be decoded.
        """
        kind = dispatch.kind
        if kind != _OBJECT and kind != _OBJECT_MAP:
            if not self._handlers:
                return self._event
            return self._handlers.get(peek_handler(kind, dispatch.encoded), self._event)
        try:
            seen = _peek_object(dispatch.body) if kind == _OBJECT else peek_map(dispatch.encoded)
        except PeekError as error:
            dispatch.hook_type, dispatch.name = 0, ""
            message = f"the Object does not decode: {error}"
            raise DispatchError(Status.INVALID, message, Rejection.INVALID) from error
        dispatch.hook_type = seen.hook_type
        dispatch.name, dispatch.api_id = seen.hook_name, seen.api_id
        hook = self._hooks.get((seen.bundle_hash, seen.hook_name)) or self._missing(seen.bundle_hash)
        if seen.api_id not in hook.apis:
            self._note_api(hook, seen)
        return hook

    def forget_handler(self, name: str) -> None:
        """Note that a worker has no such event handler; unless the newest worker has it, no worker is asked again."""
        if name not in self._newest_handlers:
            self.event_handlers.discard(name)

    def _note_api(self, hook: HookInfo, seen: Peek) -> None:
        if len(hook.apis) >= MAX_APIS:
            hook.apis.clear()
        if len(seen.api_id) <= MAX_NAME:
            hook.apis.add(seen.api_id)
        self.note_api(seen.api_id, seen.bundle_hash)

    def _missing(self, bundle_hash: str) -> HookInfo:
        """Return a stand-in for a hook that no worker has described: one to wait for, or one to ask a worker about."""
        usable = self._bundles.get(bundle_hash)
        if usable or not self.ask(usable is False):
            return self.unknown
        return self._awaited

    def _old_handlers(self) -> set[str]:
        # Bundles choose the names, and every reload may bring new ones.
        old = self.event_handlers - self._newest_handlers
        return {name for name in old if len(name) <= MAX_NAME} if len(old) <= MAX_OLD_HANDLERS else set()

    def _restrict(self, found: dict[HookKey, HookInfo], restrictions: Restrictions) -> None:
        self.groups = []
        for key, links in restrictions.hooks.items():
            # Workers do not describe a whole chain ("*") as a hook.
            info = found.get(key) or found.setdefault(key, self._chain(key))
            info.restrict(self._group(links))
        self._handlers = {}
        for name, links in restrictions.handlers.items():
            info = self._handlers[name] = HookInfo(self.stats.unknown)
            info.restrict(self._group(links))
        if self.awaits:
            self._add_awaited()

    def await_bundles(self, wait: bool) -> None:
        """Set the bundles that no worker has and whose dispatches wait; then regroup the waiting dispatches."""
        self.awaits = wait
        if wait:
            self._add_awaited()
        elif self._is_last_awaited:
            self.groups.pop()

    def _add_awaited(self) -> None:
        """Give these bundles the group without workers, which may already exist for bundles that are to be restored."""
        self._is_last_awaited = frozenset() not in self.groups
        self._awaited.restrict(self._group(frozenset()))

    def _group(self, links: frozenset[Link]) -> int:
        """Return the number of the group of these workers; create it if there is none. There are few groups."""
        if links not in self.groups:
            self.groups.append(links)
        return self.groups.index(links) + 1

    def _chain(self, key: HookKey) -> HookInfo:
        digest, name = key
        return self._known(key, HookInfo(self.stats.of((self._names.get(digest, ""), name))))

    def _info(self, bundle: dict[str, Any], digest: str, hook: dict[str, Any]) -> HookInfo:
        info = HookInfo(
            self.stats.of((bundle.get("name", ""), hook["name"])),
            is_async=bool(hook.get("is_async")),
            timeout=hook.get("timeout"),
            idempotent=bool(hook.get("idempotent")),
        )
        return self._known((digest, hook["name"]), info)

    def _known(self, key: HookKey, info: HookInfo) -> HookInfo:
        before = self._hooks.get(key)
        if before is not None:
            info.times, info.apis = before.times, before.apis
        return info


def _peek_object(body: Body) -> Peek:
    return peek(body) if isinstance(body, bytes) else peek(body.view())
