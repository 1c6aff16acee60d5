"""A worker that echoes: `python -m tests.integration.channel_worker ARGUMENT THREADS [KILL_POINT]`.

With a kill point it ends itself by SIGKILL at that place of its second request.
"""

import os
import signal
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any, Final

from ipc.channel import WorkerChannel
from ipc.errors import ControlClosedError
from ipc.layout import ACTIVE_SEQ, ACTIVE_START, HANDLED, HEAD, TAIL, ExitReason, WorkerState

KILLED_REQUEST: Final = 2

NOT_STARTED: Final = ("token taken", "record popped", "before active_start", "before active_seq")
EXECUTING: Final = ("after active_seq", "before head", "after head", "running", "before tail")
ANSWERED: Final = ("after tail", "before leaving the slot", "after leaving the slot", "after handled", "after doorbell")

# The second request: each request stores active_seq twice, everything else once.
_STORES: Final = {
    "before active_start": (ACTIVE_START, "before", 2),
    "before active_seq": (ACTIVE_SEQ, "before", 3),
    "after active_seq": (ACTIVE_SEQ, "after", 3),
    "before head": (HEAD, "before", 2),
    "after head": (HEAD, "after", 2),
    "before tail": (TAIL, "before", 2),
    "after tail": (TAIL, "after", 2),
    "before leaving the slot": (ACTIVE_SEQ, "before", 4),
    "after leaving the slot": (ACTIVE_SEQ, "after", 4),
    "after handled": (HANDLED, "after", 2),
}


def die() -> None:
    """What the kernel does to a process that is out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyWords:
    """A header whose n-th store to one word is the last thing this process does, or the one it no longer does."""

    def __init__(self, words: memoryview, index: int, when: str, count: int) -> None:
        self._words = words
        self._index = index
        self._when = when
        self._left = count

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        self._left -= index == self._index
        if self._left == 0 and self._when == "before":
            die()
        self._words[index] = value
        if self._left == 0:
            die()


def arm(channel: WorkerChannel, point: str) -> None:
    """Let this process be killed at `point` of request `KILLED_REQUEST`."""
    internals: Any = channel
    if point in _STORES:
        arm_words(internals, *_STORES[point])
    elif point == "token taken":
        internals._take = dying_after(internals._take, KILLED_REQUEST)
    elif point == "record popped":
        internals._pop = dying_after(internals._pop, KILLED_REQUEST)
    elif point == "after doorbell":
        internals._ring = dying_after(internals._ring, KILLED_REQUEST)


def arm_words(internals: Any, index: int, when: str, count: int) -> None:
    """The words are held by the channel, its producer and its consumer."""
    words = DeadlyWords(internals._words, index, when, count)
    internals._words = internals._push.__self__._words = internals._commit.__self__._words = words


def dying_after(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """A function whose n-th call returns to nobody."""
    left = iter(range(calls - 1, -1, -1))

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        if next(left) == 0:
            die()
        return result

    return call


def serve(channel: WorkerChannel, slot: int, point: str) -> None:
    """Echo until told to stop."""
    executed = 0
    while (request := channel.claim(slot)) is not None:
        executed += 1
        if point == "running" and executed == KILLED_REQUEST:
            die()
        channel.answer(slot, request.seq, request.payload, False, 1)


def listen(channel: WorkerChannel) -> None:
    """Shut down at the broker's "drain" or death."""
    reason = ExitReason.BROKER_GONE
    try:
        while not any(message.name == "drain" for message in channel.control.receive()):
            """Other messages mean nothing here."""
        reason = ExitReason.DRAINED
    except ControlClosedError:
        print("the broker is gone", flush=True)
    channel.set_exit_reason(reason)
    channel.shut_down()


def main(argument: str, threads: str, point: str = "") -> None:
    """Attach, say that we are ready, serve."""
    channel = WorkerChannel.attach(argument)
    arm(channel, point)
    listener = Thread(target=listen, args=(channel,))
    listener.start()
    channel.set_state(WorkerState.READY)
    channel.control.send("ready", {"pid": os.getpid()})
    servers = [Thread(target=serve, args=(channel, slot, point)) for slot in range(int(threads))]
    for thread in servers:
        thread.start()
    for thread in [*servers, listener]:
        thread.join()
    print("claim returned None", flush=True)
    channel.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
