"""A breaker for every hook: one that killed three workers in 30 s is left alone, then tried with one dispatch.

closed --3 kills in 30 s--> open --cool-down--> half open: one dispatch is let through
  ^                          ^                      |              |
  |                          +---- it kills, too ---+              |
  +----------------------- it is run and answered -----------------+

A trial that is not run to its end (cancelled, expired, its worker killed by somebody) proves nothing: the next dispatch
is let through.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from tykpy.broker.errors import DispatchError
from tykpy.broker.router.culprit import Culprit
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_table import EMPTY_NAME_HASH
from tykpy.ipc.frame import Status

KILLS: Final = 3
WINDOW: Final = 30.0
"""Seconds."""
LONGEST_COOLDOWN: Final = 300.0
"""Seconds; each failed try doubles the cool-down up to this."""
MAX_HOOKS: Final = 1000
"""Hooks whose kills are remembered."""
EPSILON: Final = 1e-9
"""Shares of the blame are fractions: a third three times is one."""


class Breaker:
    """One hook's."""

    __slots__ = ("cooldown", "kills", "probe", "until")

    def __init__(self, cooldown: float) -> None:
        self.kills: deque[tuple[float, float]] = deque()
        """When, and which share of the blame."""
        self.cooldown = cooldown
        self.until: float | None = None
        """When it may be tried again; None: it is closed."""
        self.probe: Dispatch | None = None
        """The one dispatch that tries it."""

    def blame(self, share: float, now: float) -> None:
        """It has killed a worker, or has a share in that."""
        while self.kills and self.kills[0][0] <= now - WINDOW:
            self.kills.popleft()
        self.kills.append((now, share))
        if self.until is not None:
            self.cooldown = min(self.cooldown * 2, LONGEST_COOLDOWN)
        elif sum(part for _, part in self.kills) < KILLS - EPSILON:
            return
        self.until = now + self.cooldown
        self.probe = None

    def proven(self) -> bool:
        """Whether the dispatch that tried it was run and answered; one that ended in another way is forgotten."""
        probe = self.probe
        if probe is None or not probe.settled or probe.link is not None:
            return False
        if not probe.seq:
            self.probe = None
        return bool(probe.seq)


class HookBreakers:
    """The breakers of all hooks that have killed a worker lately."""

    def __init__(self, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cooldown = cooldown
        self._clock = clock
        self._breakers: OrderedDict[Culprit, Breaker] = OrderedDict()
        self.open: dict[Culprit, Breaker] = {}
        """Those that let nothing through, or one dispatch only."""

    def blame(self, culprit: Culprit, share: float) -> bool:
        """The hook has a share in a worker's death; True: it is open from now on."""
        breaker = self._breakers.get(culprit)
        if breaker is None:
            breaker = self._breakers[culprit] = Breaker(self._cooldown)
            if len(self._breakers) > MAX_HOOKS:
                self.open.pop(self._breakers.popitem(last=False)[0], None)
        self._breakers.move_to_end(culprit)
        breaker.blame(share, self._clock())
        if breaker.until is None:
            return False
        self.open[culprit] = breaker
        return True

    def check(self, culprit: Culprit, dispatch: Dispatch) -> None:
        """Raise DispatchError where the hook is open; after the cool-down one dispatch may try it."""
        breaker = self.open.get(culprit)
        if breaker is None:
            return
        if breaker.proven():
            self._close(culprit)
            return
        if breaker.probe is None and self._left(breaker) <= 0:
            breaker.probe = dispatch
        elif breaker.probe is not dispatch:
            message = f"{culprit} is not run: {self._why(breaker)}, or when new code is loaded (tykpy reload)"
            raise DispatchError(Status.UNAVAILABLE, message)

    def reason(self, bundle_hashes: Sequence[str], name: str) -> str | None:
        """Why this hook is not run; None: it is."""
        for bundle_hash in (*bundle_hashes, EMPTY_NAME_HASH, ""):
            breaker = self.open.get(Culprit.named(bundle_hash, name))
            if breaker is not None and not breaker.proven():
                return f"not run: {self._why(breaker)}"
        return None

    def describe(self) -> list[dict[str, Any]]:
        """Those that are open."""
        for culprit in [culprit for culprit, breaker in self.open.items() if breaker.proven()]:
            self._close(culprit)
        return [
            {
                "bundle_hash": culprit.bundle_hash,
                "hook": culprit.name,
                "state": "open" if breaker.probe is None and self._left(breaker) > 0 else "half open",
                "left_s": round(max(0.0, self._left(breaker)), 1),
            }
            for culprit, breaker in self.open.items()
        ]

    def clear(self) -> None:
        """Close all."""
        self._breakers.clear()
        self.open.clear()

    def _close(self, culprit: Culprit) -> None:
        del self.open[culprit]
        self._breakers.pop(culprit, None)

    def _left(self, breaker: Breaker) -> float:
        assert breaker.until is not None
        return breaker.until - self._clock()

    def _why(self, breaker: Breaker) -> str:
        left = self._left(breaker)
        again = f"is tried again in {left:.0f} s" if left > 0 else "is being tried with one dispatch"
        return f"it killed {KILLS} workers in {WINDOW:.0f} s and {again}"
