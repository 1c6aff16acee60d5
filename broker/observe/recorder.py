"""Hand copies of dispatches that have ended to `tykpy record`, for as long as it asks for them.

What it cannot take in time is dropped and counted; no dispatch ever waits for it. The calls are as they arrived and
were answered, with their secrets: they go to the admin socket alone, and `tykpy record` redacts before it writes.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from random import random
from time import time_ns
from typing import Any, Final

import msgspec

from tykpy.broker.errors import DispatchError
from tykpy.broker.msgpackrpc.server import Reply, RpcMethod, decoded
from tykpy.broker.router.dispatch import Dispatch, DispatchObserver
from tykpy.broker.router.hook_stats import HookStats
from tykpy.ipc.frame import Status

MAX_WAITING: Final = 32 * 1024 * 1024
"""Bytes of calls that wait for `tykpy record`."""
MAX_BATCH: Final = 4 * 1024 * 1024
"""Bytes after which a batch takes no more calls; well below what the admin socket sends at once."""
MAX_CALL: Final = 8 * 1024 * 1024
"""Largest call that is recorded, request and answer together, in bytes."""
LONGEST_WAIT: Final = 1.0
"""Seconds until a batch is answered although nothing happened."""
LEASE: Final = 10.0
"""Seconds without a request for a batch after which nobody is taken to listen any more."""
_CALL: Final = 128
"""Bytes that a call takes besides its texts, about."""
_AS_ONE: Final = 8 * 1024
"""Bytes of a call that cost as much as another small call."""


class RecordOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `tykpy record` asks for."""

    sample: float = 1.0
    """The share of dispatches, between 0 and 1."""
    hooks: tuple[str, ...] = ()
    """Names of hooks, or `BUNDLE/HOOK`; none: all."""
    collect: float = 0.0
    """Seconds to collect calls for a batch, unless it is full before: a batch costs as much as some dispatches."""

    rate: float = 0.0
    """Most calls per second, large ones counted as several; 0: all."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate < inf:
            raise ValueError("rate: calls per second, or 0")
        if not 0 <= self.collect <= LONGEST_WAIT:
            raise ValueError(f"collect: seconds, at most {LONGEST_WAIT:g}")
        if not 0 < self.sample <= 1:
            raise ValueError("sample: a share above 0 and at most 1")


class RecordedCall(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A dispatch that has ended, with all its secrets."""

    time_ns: int
    """When it ended, since the epoch."""
    kind: int
    """An `ipc.frame.Kind`: what `request` and `answer` are."""
    bundle: str
    hook: str
    request: bytes
    answer: bytes
    """Empty if it failed."""
    code: int
    """A `GrpcCode`."""
    message: str
    """Why it failed."""
    dispatch_ns: int
    hook_ns: int | None
    """None: the hook was not run."""
    metadata: bytes | None
    """gRPC metadata, see `ipc.frame`."""
    reads: bytes
    """What the hook read, see `ipc.reads`; a worker has packed it. Empty if the dispatch failed before that."""


class Batch(msgspec.Struct, frozen=True):
    """What ended since the last batch."""

    calls: Sequence[RecordedCall]
    dropped: int
    """Calls that there was no room for, or more than the rate."""


class Recorder:
    """One recording at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_taken: list[Callable[[Dispatch, HookStats], None]],
        observers: list[DispatchObserver],
    ) -> None:
        """What is called with dispatches that are taken, and told about their end: a recording is while it runs."""
        self._loop = loop
        self._on_taken = on_taken
        self._observers = observers
        self._runs = False
        self._options = RecordOptions()
        self._hooks: frozenset[str] = frozenset()
        self._calls: deque[tuple[RecordedCall, int]] = deque()
        """Calls and their sizes in bytes."""
        self._waiting = 0
        """Bytes of all of them."""
        self._dropped = 0
        """Calls that there was no room for, or more than the rate, since the last batch."""
        self._left = inf
        """Calls that the rate allows before the next batch."""
        self._allowed_at = 0.0
        """When that was set, in the loop's time."""
        self._listener: Callable[[Batch | None], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, options: RecordOptions) -> None:
        """Begin a recording. Raises DispatchError if there is one."""
        if self._runs:
            raise DispatchError(Status.INVALID, "another tykpy record runs for this broker; end that first")
        self._options, self._hooks, self._runs = options, frozenset(options.hooks), True
        self._left, self._allowed_at = options.rate or inf, self._loop.time()
        self._on_taken.append(self.choose)
        self._observers.append(self)
        self._lease()

    def stop(self) -> int:
        """End the recording, if there is one; return how many calls were not fetched."""
        left = len(self._calls) + self._dropped
        if self._runs:
            self._on_taken.remove(self.choose)
            self._observers.remove(self)
        self._runs = False
        self._calls.clear()
        self._waiting = self._dropped = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(None)
        return left

    def read(self, listener: Callable[[Batch | None], None]) -> None:
        """Call `listener` with the next batch, after a second at most; with None if there is no recording."""
        if not self._runs or self._listener is not None:
            listener(None)
            return
        self._listener = listener
        if self._waiting > MAX_BATCH:
            self._deliver()
        else:
            there_are_some = self._calls or self._dropped
            self._set_timer(self._options.collect if there_are_some else LONGEST_WAIT, self._deliver)

    def hang_up(self) -> None:
        """Note that who waits for a batch has gone."""
        self._listener = None
        self.stop()

    def choose(self, dispatch: Dispatch, stats: HookStats) -> None:
        """Decide whether a dispatch is recorded, before a worker gets it."""
        options = self._options
        wanted = (options.sample >= 1 or random() < options.sample) and self._is_wanted(dispatch, stats)
        dispatch.recorded = wanted and self._left > 0
        self._dropped += wanted and self._left <= 0

    def note(
        self,
        dispatch: Dispatch,
        stats: HookStats,
        code: int,
        dispatch_ns: int,
        hook_ns: int | None,
        answer: bytes = b"",
        message: str = "",
    ) -> None:
        """Keep a copy of a dispatch that has ended, if it is chosen and there is room."""
        if dispatch.recorded is None:  # it was taken before the recording began
            self.choose(dispatch, stats)
        if not dispatch.recorded:
            return
        size = len(dispatch.body) + len(answer) + len(dispatch.reads) + _CALL
        if size > MAX_CALL or self._waiting + size > MAX_WAITING:
            self._dropped += 1
            return
        call = RecordedCall(
            time_ns(),
            dispatch.kind,
            stats.id[0],
            dispatch.name,
            dispatch.encoded,
            answer,
            code,
            message,
            dispatch_ns,
            hook_ns,
            dispatch.metadata,
            dispatch.reads,
        )
        self._left -= 1 + size // _AS_ONE
        self._calls.append((call, size))
        self._waiting += size
        if self._waiting > MAX_BATCH and self._listener is not None:
            self._loop.call_soon(self._deliver)

    def _is_wanted(self, dispatch: Dispatch, stats: HookStats) -> bool:
        if not self._hooks:
            return True
        bundle, hook = stats.id
        return hook in self._hooks or f"{bundle}/{hook}" in self._hooks

    def _deliver(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        calls, taken = [], 0
        while self._calls and taken < MAX_BATCH:
            call, size = self._calls.popleft()
            calls.append(call)
            taken += size
        self._waiting -= taken
        dropped, self._dropped = self._dropped, 0
        self._allow()
        self._lease()
        listener(Batch(calls, dropped))

    def _allow(self) -> None:
        """Allow as many calls as the rate says for the time since the last batch; at most those of a second."""
        now, rate = self._loop.time(), self._options.rate
        if rate:
            self._left = min(rate, self._left + rate * (now - self._allowed_at))
        self._allowed_at = now

    def _lease(self) -> None:
        self._set_timer(LEASE, self.stop)

    def _set_timer(self, seconds: float, callback: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, callback)


def record_methods(recorder: Recorder) -> dict[str, RpcMethod]:
    """Return the methods of the admin socket for `tykpy record`: `record_start`, `record_read` and `record_stop`."""

    def start(params: list[Any], reply: Reply) -> None:
        try:
            (options,) = params
            recorder.start(msgspec.convert(options, RecordOptions))
        except ValueError as error:
            raise DispatchError(Status.INVALID, f"takes a map of options: {error}") from error
        reply.answer(None)

    def read(_params: list[Any], reply: Reply) -> None:
        reply.on_hang_up = recorder.hang_up
        recorder.read(lambda batch: reply.answer_packed(msgspec.msgpack.encode(batch)))

    def stop(_params: list[Any], reply: Reply) -> None:
        reply.answer(recorder.stop())

    return {f"record_{method.__name__}": decoded(method) for method in (start, read, stop)}
