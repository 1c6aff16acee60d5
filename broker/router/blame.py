"""Dispatches that kill workers: a frame that killed two is not run again, nor for a while a hook that killed three.

Who is to blame is found out when a worker dies; a dispatch pays for it with one truth test of `Poison.active`. Where a
worker ran several dispatches at once, the blame is shared among them. A hook that hangs counts as one that kills, a
frame does not: what it waited for may be back, and a frame is not tried again as a hook is.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tykpy.broker.errors import DispatchError
from tykpy.broker.router.breaker import HookBreakers
from tykpy.broker.router.culprit import MAX_NAME, Culprit, culprit_of
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_table import EMPTY_NAME_HASH
from tykpy.ipc.frame import Status

KILLS_OF_A_FRAME: Final = 2
"""Workers that a frame may kill."""
FRAME_MEMORY: Final = 300.0
"""Seconds after which a frame's last kill is forgotten."""
MAX_FRAMES: Final = 4096
"""Frames that are remembered; beyond that the oldest are forgotten."""
EPSILON: Final = 1e-9
"""Shares of the blame are fractions: a third three times is one."""
UNKNOWN_SHARE: Final = 1 / 6
"""Of the blame, where it cannot be told whether the hook had anything to do with its worker's end."""
DIGEST_SIZE: Final = 16
SHOWN_DIGITS: Final = 12


class Cause(Enum):
    """Why a worker died, as far as the hooks that it ran are concerned."""

    CRASH = "killed"
    """By what it ran."""
    HANG = "hung"
    """It was ended because a hook of it did not end."""
    UNKNOWN = "unknown"
    """By a signal that somebody sent or it sent itself, or after one that stopped it: only many make a pattern."""
    OUTSIDE = "outside"
    """Somebody sent it a signal: nobody within is to blame."""


@dataclass(slots=True)
class _Frame:
    kills: float
    last: float
    culprit: Culprit


class Poison:
    """Who killed workers, and what is therefore not run. For one thread."""

    def __init__(self, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`cooldown`: seconds for which a hook is left alone before it is tried again."""
        self.active = False
        """Something is refused: only then `check` has anything to do."""
        self._clock = clock
        self._frames: OrderedDict[bytes, _Frame] = OrderedDict()
        self._refused: set[bytes] = set()
        self._breakers = HookBreakers(cooldown, clock)

    def check(self, dispatch: Dispatch) -> None:
        """Raise DispatchError where this dispatch is not to be run."""
        if self._refused:
            self._check_frame(dispatch)
        if self._breakers.open:
            self._breakers.check(culprit_of(dispatch), dispatch)
        self._update()

    def blame(self, dispatches: Sequence[Dispatch], cause: Cause) -> bool:
        """A worker died while it ran these; True: what waits must be checked again."""
        if cause is Cause.OUTSIDE or not dispatches:
            return False
        share = (UNKNOWN_SHARE if cause is Cause.UNKNOWN else 1) / len(dispatches)
        opened = quarantined = False
        for dispatch in dispatches:
            culprit = culprit_of(dispatch)
            opened |= self._breakers.blame(culprit, share)
            if cause is Cause.CRASH:
                quarantined |= self._blame_frame(dispatch, culprit, share)
        self._update()
        return opened or quarantined

    def clear(self) -> None:
        """Forget everything: there is new code."""
        self._frames.clear()
        self._refused.clear()
        self._breakers.clear()
        self._update()

    def open_hook(self, bundle_hashes: Sequence[str], name: str) -> str | None:
        """Why this hook is not run, in words; None: it is."""
        return self._breakers.reason(bundle_hashes, name)

    def quarantined(self, bundle_hashes: Sequence[str], name: str) -> int:
        """How many different dispatches of this hook are not run again."""
        self._forget_old_frames()
        hashes = {*bundle_hashes, EMPTY_NAME_HASH, ""}
        name = name[:MAX_NAME]
        culprits = [self._frames[key].culprit for key in self._refused]
        return sum(culprit.name == name and culprit.bundle_hash in hashes for culprit in culprits)

    def describe(self) -> dict[str, Any]:
        """For `tykpy status`: the frames and hooks that are not run."""
        self._forget_old_frames()
        self._update()
        frames = [self._describe_frame(key) for key in self._refused]
        return {"frames": frames, "hooks": self._breakers.describe()}

    def _check_frame(self, dispatch: Dispatch) -> None:
        self._forget_old_frames()
        key = digest_of(dispatch)
        if key in self._refused:
            frame = self._frames[key]
            raise DispatchError(
                Status.HOOK_FAILED,
                f"quarantined: this very dispatch ({frame.culprit}) has killed {KILLS_OF_A_FRAME} workers, it is not "
                f"run again before {self._left(frame):.0f} s have passed or new code is loaded (tykpy reload)",
            )

    def _blame_frame(self, dispatch: Dispatch, culprit: Culprit, share: float) -> bool:
        self._forget_old_frames()
        key = digest_of(dispatch)
        frame = self._frames.pop(key, None) or _Frame(0.0, 0.0, culprit)
        frame.kills += share
        frame.last = self._clock()
        self._frames[key] = frame
        if frame.kills < KILLS_OF_A_FRAME - EPSILON or key in self._refused:
            return False
        self._refused.add(key)
        return True

    def _forget_old_frames(self) -> None:
        # The oldest are first: a frame moves to the end when it kills.
        horizon = self._clock() - FRAME_MEMORY
        while self._frames:
            key, frame = next(iter(self._frames.items()))
            if frame.last > horizon and len(self._frames) <= MAX_FRAMES:
                return
            del self._frames[key]
            self._refused.discard(key)

    def _update(self) -> None:
        self.active = bool(self._refused or self._breakers.open)

    def _describe_frame(self, key: bytes) -> dict[str, Any]:
        frame = self._frames[key]
        return {
            "frame": key.hex()[:SHOWN_DIGITS],
            "bundle_hash": frame.culprit.bundle_hash,
            "hook": frame.culprit.name,
            "left_s": round(self._left(frame), 1),
        }

    def _left(self, frame: _Frame) -> float:
        return frame.last + FRAME_MEMORY - self._clock()


def digest_of(dispatch: Dispatch) -> bytes:
    """What tells one frame from all others."""
    return hashlib.blake2b(dispatch.encoded, digest_size=DIGEST_SIZE, salt=bytes((dispatch.kind,))).digest()
