"""Deaths of workers: their causes, the fate of their dispatches, and the quarantine of frames and hooks that kill them.

A frame (the bytes of one dispatch) that killed two workers is not run again. A hook that killed three in 30 s is not
run for a while, then tried with one dispatch:

    closed --3 kills in 30 s--> open --cool-down--> half open: one dispatch is let through
      ^                          ^                      |              |
      |                          +-- it kills as well --+              |
      +----------------------- it is run and answered -----------------+

A trial that does not finish (cancelled, expired, its worker killed from outside) proves nothing: the next dispatch is
let through.

Blame is assigned when a worker dies; other dispatches only pay for a truth test of `Quarantine.active`. If a worker ran
several dispatches at once, they share the blame. A hook that hangs counts as one that kills. Its frame does not,
because the service that it waited for may be back, and a frame, unlike a hook, is never tried again.
"""

import hashlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple, Self

from tykpy.broker.errors import DispatchError, Rejection
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_table import NO_BUNDLE
from tykpy.broker.router.peek import PeekError, peek, peek_handler, peek_map
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.description import MAX_NAME
from tykpy.ipc.frame import EVENT_KINDS, Kind, Status
from tykpy.telemetry.log import Log

_log: Final = Log("tykpy.router")
MAX_ATTEMPTS: Final = 3
"""Workers that may crash before they start a dispatch, until its caller gets an error."""
FRAME_KILLS: Final = 2
"""Workers that a frame may kill."""
FRAME_MEMORY: Final = 300.0
"""Seconds after which a frame's last kill is forgotten."""
MAX_FRAMES: Final = 4096
"""Frames that are remembered; beyond that the oldest are forgotten."""
HOOK_KILLS: Final = 3
"""Workers that a hook may kill within HOOK_WINDOW."""
HOOK_WINDOW: Final = 30.0
"""Seconds within which HOOK_KILLS count."""
LONGEST_COOLDOWN: Final = 300.0
"""Seconds; each failed trial doubles the cool-down up to this."""
MAX_HOOKS: Final = 1000
"""Hooks whose kills are remembered."""
EPSILON: Final = 1e-9
"""Tolerance for sums of shares of the blame: three thirds must count as one."""
UNKNOWN_SHARE: Final = 1 / 6
"""Share of the blame if it is not known whether the hook had anything to do with its worker's end."""
DIGEST_SIZE: Final = 16
SHOWN_DIGITS: Final = 12


class Cause(Enum):
    """Why a worker died, as far as it concerns the hooks that it ran."""

    CRASH = "killed"
    """The hooks that it ran killed it."""
    HANG = "hung"
    """It was ended because one of its hooks did not end."""
    UNKNOWN = "unknown"
    """A signal ended it that somebody or it itself sent, or that followed a stop: only many of these are evidence."""
    OUTSIDE = "outside"
    """A signal from outside ended it: nothing that it ran is to blame."""


class Death(NamedTuple):
    """What is known about a worker that died."""

    why: str
    """The reason in words: `worker 1 (process 7) was ended by SIGKILL`."""
    cause: Cause = Cause.OUTSIDE
    answers: Sequence[Answer] = ()
    """The answers that it had published."""
    executing: frozenset[int] = frozenset()
    """The dispatches that it was running, by its own account."""
    trusted: bool = True
    """False if it wrote something impossible: it may have run any of its dispatches."""


def final_error(dispatch: Dispatch, seq: int, death: Death) -> DispatchError | None:
    """Return the error for the caller of a dead worker's dispatch, or None if another worker should run it.

    Call this once for each death: it counts the dispatch's attempts.
    """
    if seq in death.executing or not death.trusted:
        assert dispatch.hook is not None
        if dispatch.hook.idempotent and not dispatch.retried:
            dispatch.retried = True
            return None
        why = f"{death.why} while it ran this hook"
    else:
        # A dispatch that had not started cannot be to blame for a kill from outside. If workers die by themselves, its
        # bytes may kill them before its hook is entered.
        dispatch.attempts += death.cause in (Cause.CRASH, Cause.HANG)
        if dispatch.attempts < MAX_ATTEMPTS:
            return None
        why = f"{death.why} before it started this hook, {dispatch.attempts} times"
    return DispatchError(Status.HOOK_FAILED, f"{why} ({dispatch.name})")


class BlamedHook(NamedTuple):
    """The name of a hook as the gateway uses it; an event's handler has no bundle."""

    bundle_hash: str
    name: str

    @classmethod
    def called(cls, bundle_hash: str, name: str) -> Self:
        """Return the hook of this name, with long texts cut: peers choose them, and they are kept."""
        return cls(bundle_hash[:MAX_NAME], name[:MAX_NAME])

    @classmethod
    def of(cls, dispatch: Dispatch) -> Self:
        """Read the hook, or the event's handler, from a dispatch; its name is empty if the bytes contain none."""
        kind, body = dispatch.kind, dispatch.encoded
        if kind in EVENT_KINDS:
            return cls.called("", peek_handler(kind, body))
        try:
            seen = peek(body) if kind == Kind.OBJECT else peek_map(body)
        except PeekError:
            return cls("", "")
        return cls.called(seen.bundle_hash, seen.hook_name)

    def __str__(self) -> str:
        return f"hook {self.name}" if self.bundle_hash else f"handler {self.name}"


@dataclass(slots=True)
class _Frame:
    """The record of one frame."""

    hook: BlamedHook
    kills: float = 0.0
    last: float = 0.0


class _Breaker:
    """The record of one hook, and when it may run again."""

    __slots__ = ("bundle", "cooldown", "kills", "probe", "until")

    def __init__(self, cooldown: float) -> None:
        self.bundle = ""
        """The name of the hook's bundle, if a worker has the hook."""
        self.kills: deque[tuple[float, float]] = deque()
        """The time of each kill, and its share of the blame."""
        self.cooldown = cooldown
        self.until: float | None = None
        """When the hook may be tried again; None: it runs."""
        self.probe: Dispatch | None = None
        """The one dispatch that tries it."""

    def blame(self, share: float, now: float) -> None:
        """Count a share in a worker's death."""
        while self.kills and self.kills[0][0] <= now - HOOK_WINDOW:
            self.kills.popleft()
        self.kills.append((now, share))
        if self.until is not None:
            self.cooldown = min(self.cooldown * 2, LONGEST_COOLDOWN)
        elif sum(part for _, part in self.kills) < HOOK_KILLS - EPSILON:
            return
        self.until = now + self.cooldown
        self.probe = None

    def is_proven(self) -> bool:
        """Whether the trial dispatch was run and answered; forget a trial that ended in another way."""
        probe = self.probe
        if probe is None or not probe.completed or probe.link is not None:
            return False
        if not probe.seq:
            self.probe = None
        return bool(probe.seq)

    def left(self, now: float) -> float:
        """Return the seconds until the hook may be tried again; negative if it already may."""
        assert self.until is not None
        return self.until - now


class Quarantine:
    """The frames and hooks that are not run because they killed workers. Used by one thread."""

    def __init__(self, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`cooldown`: seconds for which a hook is not run before it is tried again."""
        self.active = False
        """Whether anything is refused: otherwise `check` has nothing to do."""
        self._cooldown = cooldown
        self._clock = clock
        self._frames: OrderedDict[bytes, _Frame] = OrderedDict()
        self._refused: set[bytes] = set()
        self._breakers: OrderedDict[BlamedHook, _Breaker] = OrderedDict()
        self._open: dict[BlamedHook, _Breaker] = {}

    def check(self, dispatch: Dispatch) -> None:
        """Raise DispatchError if this dispatch must not run; after its cool-down a hook is tried with one dispatch."""
        if self._refused:
            self._check_frame(dispatch)
        if self._open:
            self._check_hook(dispatch)
        self._update()

    def blame(self, dispatches: Sequence[Dispatch], cause: Cause) -> bool:
        """Blame these dispatches for their worker's death; return whether waiting ones must be checked again."""
        if cause is Cause.OUTSIDE or not dispatches:
            return False
        share = (UNKNOWN_SHARE if cause is Cause.UNKNOWN else 1) / len(dispatches)
        refused = False
        for dispatch in dispatches:
            hook = BlamedHook.of(dispatch)
            refused |= self._blame_hook(hook, dispatch, share)
            if cause is Cause.CRASH:
                refused |= self._blame_frame(dispatch, hook, share)
        self._update()
        return refused

    def clear(self) -> None:
        """Forget everything: there is new code."""
        for known in (self._frames, self._refused, self._breakers, self._open):
            known.clear()
        self._update()

    def why_not_run(self, bundle_hashes: Sequence[str], name: str) -> str | None:
        """Return why this hook is not run, or None if it is."""
        for bundle_hash in (*bundle_hashes, *NO_BUNDLE):
            breaker = self._open.get(BlamedHook.called(bundle_hash, name))
            if breaker is not None and not breaker.is_proven():
                return f"not run: {self._why(breaker)}"
        return None

    def count_frames(self, bundle_hashes: Sequence[str], name: str) -> int:
        """Return how many different frames of this hook are not run again."""
        self._forget_old_frames()
        hooks = {BlamedHook.called(bundle_hash, name) for bundle_hash in (*bundle_hashes, *NO_BUNDLE)}
        return sum(self._frames[key].hook in hooks for key in self._refused)

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """Return the frames and hooks that are not run, for `tykpy status`."""
        self._forget_old_frames()
        self._close_proven()
        self._update()
        frames = [(key, self._frames[key]) for key in self._refused]
        return {
            "frames": [
                {
                    "frame": key.hex()[:SHOWN_DIGITS],
                    "bundle_hash": frame.hook.bundle_hash,
                    "hook": frame.hook.name,
                    "left_s": round(self._frame_left(frame), 1),
                }
                for key, frame in frames
            ],
            "hooks": [
                {
                    "bundle_hash": hook.bundle_hash,
                    "bundle": breaker.bundle,
                    "hook": hook.name,
                    "state": "open" if breaker.probe is None and breaker.left(self._clock()) > 0 else "half open",
                    "left_s": round(max(0.0, breaker.left(self._clock())), 1),
                }
                for hook, breaker in self._open.items()
            ],
        }

    # -- frames ---

    def _check_frame(self, dispatch: Dispatch) -> None:
        self._forget_old_frames()
        key = _digest_of(dispatch)
        if key in self._refused:
            frame = self._frames[key]
            raise DispatchError(
                Status.HOOK_FAILED,
                f"quarantined: this very dispatch ({frame.hook}) has killed {FRAME_KILLS} workers, it is not "
                f"run again before {self._frame_left(frame):.0f} s have passed or new code is loaded (tykpy reload)",
                Rejection.QUARANTINED,
            )

    def _blame_frame(self, dispatch: Dispatch, hook: BlamedHook, share: float) -> bool:
        self._forget_old_frames()
        key = _digest_of(dispatch)
        frame = self._frames.pop(key, None) or _Frame(hook)
        frame.kills += share
        frame.last = self._clock()
        self._frames[key] = frame
        if frame.kills < FRAME_KILLS - EPSILON or key in self._refused:
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

    def _frame_left(self, frame: _Frame) -> float:
        return frame.last + FRAME_MEMORY - self._clock()

    # -- hooks ---

    def _check_hook(self, dispatch: Dispatch) -> None:
        hook = BlamedHook.of(dispatch)
        breaker = self._open.get(hook)
        if breaker is None:
            return
        if breaker.is_proven():
            self._close(hook)
        elif breaker.probe is None and breaker.left(self._clock()) <= 0:
            breaker.probe = dispatch
        elif breaker.probe is not dispatch:
            message = f"{hook} is not run: {self._why(breaker)}, or when new code is loaded (tykpy reload)"
            raise DispatchError(Status.UNAVAILABLE, message, Rejection.BREAKER_OPEN)

    def _blame_hook(self, hook: BlamedHook, dispatch: Dispatch, share: float) -> bool:
        breaker = self._breakers.get(hook)
        if breaker is None:
            breaker = self._breakers[hook] = _Breaker(self._cooldown)
            if len(self._breakers) > MAX_HOOKS:
                self._open.pop(self._breakers.popitem(last=False)[0], None)
        self._breakers.move_to_end(hook)
        breaker.bundle = dispatch.bundle
        breaker.blame(share, self._clock())
        if breaker.until is None:
            return False
        self._open[hook] = breaker
        why = f"{self._why(breaker)}, or when new code is loaded (tykpy reload)"
        _log.log(logging.ERROR, "%s is not run: %s", dispatch.title, why)
        return True

    def _close_proven(self) -> None:
        for hook in [hook for hook, breaker in self._open.items() if breaker.is_proven()]:
            self._close(hook)

    def _close(self, hook: BlamedHook) -> None:
        del self._open[hook]
        self._breakers.pop(hook, None)

    def _why(self, breaker: _Breaker) -> str:
        left = breaker.left(self._clock())
        again = f"is tried again in {left:.0f} s" if left > 0 else "is being tried with one dispatch"
        return f"it killed {HOOK_KILLS} workers in {HOOK_WINDOW:.0f} s and {again}"

    def _update(self) -> None:
        self.active = bool(self._refused or self._open)


def _digest_of(dispatch: Dispatch) -> bytes:
    """Return a digest that identifies a frame."""
    return hashlib.blake2b(dispatch.encoded, digest_size=DIGEST_SIZE, salt=bytes((dispatch.kind,))).digest()
