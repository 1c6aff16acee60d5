"""What the broker knows of the workers' hooks: which lane a dispatch takes, and how long it will probably run."""

from typing import Any, Final

from broker.routing.pending import ASYNC, BLOCKING

FIRST_GUESS_NS: Final = 500_000
"""Expected running time of a hook that has not run yet."""
CUSTOM_KEY_CHECK: Final = 4
"""`coprocess.HookType.CustomKeyCheck`"""
LEARNING_SHIFT: Final = 3
"""A new measurement counts 1/8 in the expected running time."""
FORGETTING_SHIFT: Final = 6
"""And 1/64 in the shortest one, where it is not shorter itself."""
SHORT_NS: Final = 50_000
"""A hook that returns sooner waits for nothing: one round trip to a Redis next door takes longer."""
SELDOM_LONG_NS: Final = 1_000_000
"""One that is expected to run longer than this is not short, however quick it sometimes is."""
EMPTY_NAME_HASH: Final = "d41d8cd98f00b204e9800998ecf8427e"
"""MD5 of the empty string: what the gateway sends for an API without a bundle; hooks are then found by name."""
EVENT_SHAPE: Final = "event, spec"
"""What workers say of an event handler's arguments."""


class HookInfo:
    """One hook's routing facts. Times are ns."""

    __slots__ = ("expected_ns", "idempotent", "is_short", "lane", "name", "shortest_ns", "timeout_ns")

    def __init__(
        self, name: str, *, is_async: bool = False, timeout: float | None = None, idempotent: bool = False
    ) -> None:
        self.name = name
        self.lane = ASYNC if is_async else BLOCKING
        self.timeout_ns = int(timeout * 1e9) if timeout else 0
        self.idempotent = idempotent
        self.expected_ns = FIRST_GUESS_NS
        self.shortest_ns = FIRST_GUESS_NS
        self.is_short = False
        """It computes a little and waits for nothing. Told by its shortest times: where more workers run than there are
        CPUs, most times have somebody else's in them."""

    def learn(self, handler_ns: int) -> None:
        """Take one measured running time into account."""
        self.expected_ns += (handler_ns - self.expected_ns) >> LEARNING_SHIFT
        shift = FORGETTING_SHIFT if handler_ns > self.shortest_ns else 0
        self.shortest_ns += (handler_ns - self.shortest_ns) >> shift
        self.is_short = self.shortest_ns < SHORT_NS and self.expected_ns < SELDOM_LONG_NS


class HookTable:
    """Hooks by bundle hash and name, as the workers describe them; replaced whole at every description."""

    def __init__(self) -> None:
        self.description: list[dict[str, Any]] = []
        """The bundles with their hooks, as the newest worker described them."""
        self.event_handlers: set[str] = set()
        """Names of `@Event` handlers that some worker has, or had: one that is gone is found out when it is called."""
        self._newest_handlers: set[str] = set()
        self._hooks: dict[tuple[str, str], HookInfo] = {}
        self._unknown = HookInfo("?")

    def update(self, description: list[dict[str, Any]]) -> None:
        """Take a worker's description; hooks known before keep what was learned about them."""
        found: dict[tuple[str, str], HookInfo] = {}
        self._newest_handlers = set()
        for bundle in description:
            for hook in bundle.get("hooks", ()):
                if hook.get("shape") == EVENT_SHAPE:
                    self._newest_handlers.add(hook["name"])
                for digest in (*bundle.get("hashes", ()), EMPTY_NAME_HASH):
                    found.setdefault((digest, hook["name"]), self._info(digest, hook))
        self.description = description
        self.event_handlers |= self._newest_handlers
        self._hooks = found

    def find(self, bundle_hash: str, name: str) -> HookInfo:
        """The hook's facts, or those of an unknown hook."""
        return self._hooks.get((bundle_hash, name), self._unknown)

    def forget_handler(self, name: str) -> None:
        """A worker has no such event handler: unless the newest has, nobody is asked again."""
        if name not in self._newest_handlers:
            self.event_handlers.discard(name)

    def _info(self, digest: str, hook: dict[str, Any]) -> HookInfo:
        info = HookInfo(
            hook["name"],
            is_async=bool(hook.get("is_async")),
            timeout=hook.get("timeout"),
            idempotent=bool(hook.get("idempotent")),
        )
        before = self._hooks.get((digest, info.name))
        if before is not None:
            info.expected_ns, info.shortest_ns, info.is_short = (
                before.expected_ns,
                before.shortest_ns,
                before.is_short,
            )
        return info
