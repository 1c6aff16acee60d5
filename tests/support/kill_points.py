"""Kills a worker (SIGKILL) at an exact place of its loop, by replacing only the calls and stores at that place.

A bundle may hold this file as it is: it imports only what plugins can. It is armed while the worker runs a request; the
request after that is the one it is killed at.
"""

import os
import pkgutil
import signal
from collections.abc import Callable
from typing import Any, Final

_layout: Any = pkgutil.resolve_name("tykpy.ipc.ring.layout")
"""Not imported: a bundle cannot import `ipc`."""

NOT_STARTED: Final = ("token taken", "record popped", "before active_start", "before active_seq")
EXECUTING: Final = (
    "after active_seq",
    "before head",
    "after head",
    "running",
    "record half written",
    "before tail",
)
ANSWERED: Final = (
    "after tail",
    "before leaving the slot",
    "after leaving the slot",
    "before doorbell",
    "after doorbell",
    "back at the doorbell",
)
"""Places in `ipc/channel/worker_end.py`, and what a kill there means for the request."""

UNDECODED: Final = ("before decoding", "hook found")
RAN: Final = ("hook returned",)
"""Places in `workers/serve.py`; its request executes there, before and after its hook has run."""

MOVING: Final = ("before the move", "in both slots", "moved")
"""Places in `WorkerChannel.move`, where an `async def` hook leaves the claiming thread: it executes."""

_ONE_WORD: Final = 1
_SLOTS: Final = _layout.EXECUTION_SLOTS
# The answer of the request that arms is still to come: a store of tail, one that clears its slot.
_STORES: Final = {
    "before active_start": (_layout.ACTIVE_START, _SLOTS, "before", 1),
    "before active_seq": (_layout.ACTIVE_SEQ, _SLOTS, "before", 2),
    "after active_seq": (_layout.ACTIVE_SEQ, _SLOTS, "after", 2),
    "before head": (_layout.HEAD, _ONE_WORD, "before", 1),
    "after head": (_layout.HEAD, _ONE_WORD, "after", 1),
    "before tail": (_layout.TAIL, _ONE_WORD, "before", 2),
    "after tail": (_layout.TAIL, _ONE_WORD, "after", 2),
    "before leaving the slot": (_layout.ACTIVE_SEQ, _SLOTS, "before", 3),
    "after leaving the slot": (_layout.ACTIVE_SEQ, _SLOTS, "after", 3),
    "before the move": (_layout.ACTIVE_SEQ, _SLOTS, "before", 3),
    "in both slots": (_layout.ACTIVE_SEQ, _SLOTS, "after", 3),
    "moved": (_layout.ACTIVE_SEQ, _SLOTS, "after", 4),
}
"""The first word, how many words, when, and which store to any of them."""


def die() -> None:
    """Kill this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyWords:
    """A header whose n-th store to some words is the last thing this process does, or the one it no longer does."""

    def __init__(self, words: memoryview, first: int, number: int, when: str, count: int) -> None:
        self._words = words
        self._watched = range(first, first + number)
        self._when = when
        self._left = count

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        watched = index in self._watched
        self._left -= watched
        if watched and self._left == 0 and self._when == "before":
            die()
        self._words[index] = value
        if watched and self._left == 0:
            die()


class DeadlyInvocation:
    """An invocation whose result is never sent."""

    def __init__(self, invocation: Any) -> None:
        self._invocation = invocation
        self.is_async = invocation.is_async

    def run(self) -> bytes:
        """Run the hook and die."""
        result: bytes = self._invocation.run()
        die()
        return result

    async def run_async(self) -> bytes:
        """Run an `async def` hook and die."""
        result: bytes = await self._invocation.run_async()
        die()
        return result


def arm(channel: object, point: str) -> None:
    """Kill this process at `point`, a place in its channel's code or one that `reach` names."""
    internals: Any = channel
    if point in _STORES:
        _arm_words(internals, *_STORES[point])
    elif point == "token taken":
        internals._take = _dying_after(internals._take, 1)
    elif point == "record popped":
        internals._pop = _dying_after(internals._pop, 1)
    elif point == "record half written":
        # Big answers come to the producer by another way.
        producer = internals._push.__self__
        internals._push = producer.push = _dying_within(internals._push, 2)
    elif point == "before doorbell":
        internals._ring = _dying_before(internals._ring, 2)
    elif point == "after doorbell":
        internals._ring = _dying_after(internals._ring, 2)
    elif point == "back at the doorbell":
        internals._take = _dying_before(internals._take, 2)
    else:
        _armed.add(point)


def arm_worker(worker: object, point: str) -> None:
    """Kill this process at a place in the loop of a `workers.serve.WorkerLoop`."""
    internals: Any = worker
    dispatcher = internals._dispatcher
    if point == "before decoding":
        dispatcher.prepare = _dying_before(dispatcher.prepare, 1)
    elif point == "hook found":
        dispatcher.prepare = _dying_after(dispatcher.prepare, 1)
    elif point == "hook returned":
        prepare = dispatcher.prepare
        dispatcher.prepare = lambda *request: DeadlyInvocation(prepare(*request))
    else:
        arm(internals._channel, point)


_armed: set[str] = set()


def reach(point: str) -> None:
    """Reach a place: kill this process if the place is armed."""
    if point in _armed:
        die()


def _arm_words(internals: Any, first: int, number: int, when: str, count: int) -> None:
    """Replace the words in the channel, its producer and its consumer."""
    words = DeadlyWords(internals._words, first, number, when, count)
    internals._words = internals._push.__self__._words = internals._commit.__self__._words = words


def _dying_before(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Wrap a function: its n-th call kills the process before it does anything."""
    left = iter(range(calls - 1, -1, -1))

    def call(*arguments: Any) -> Any:
        if next(left) == 0:
            die()
        return function(*arguments)

    return call


def _dying_after(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Wrap a function: its n-th call kills the process before it returns."""
    left = iter(range(calls - 1, -1, -1))

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        if next(left) == 0:
            die()
        return result

    return call


def _dying_within(push: Callable[..., int], calls: int) -> Callable[..., int]:
    """Return a `Producer.push` whose n-th call writes the record's header and half of its payload, but not the tail."""
    producer: Any = push.__self__  # type: ignore[attr-defined]
    left = iter(range(calls - 1, -1, -1))

    def call(kind: int, seq: int, aux: int, payload: bytes) -> int:
        if next(left) == 0:
            start = _layout.HEADER_SIZE + (producer._position & producer._mask)
            half = bytes(_layout.RECORD_HEADER.size) + payload[: len(payload) // 2]
            producer._memory[start : start + len(half)] = half
            die()
        return push(kind, seq, aux, payload)

    return call
