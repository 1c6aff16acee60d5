"""What the router is told at its start, what it counts, and how it and those who look after the workers speak."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tykpy.broker.arriving import HELD_BYTES
from tykpy.broker.router.blame import Cause
from tykpy.broker.router.link import Link
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.errors import IpcError


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Limits: times in ns, the queue in dispatches and in bytes."""

    timeout_ns: int
    queue_size: int
    queue_wait_ns: int = 0
    """How long a dispatch may wait while more come than the workers can do; 0: as long as its deadline."""
    breaker_cooldown: float = 10.0
    """Seconds for which a hook that kills workers is left alone."""
    queue_bytes: int = HELD_BYTES
    """Bytes of dispatches that may wait or run."""


@dataclass(slots=True)
class Counters:
    """What became of the dispatches since the broker started."""

    taken: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    shed: int = 0
    """Of those that failed: waited too long in a queue that does not go away."""
    redispatched: int = 0
    late: int = 0


class Death(NamedTuple):
    """What is known of a worker that died."""

    why: str
    """In words: `worker 1 (process 7) was ended by SIGKILL`."""
    cause: Cause = Cause.OUTSIDE
    answers: Sequence[Answer] = ()
    """What it had published."""
    executing: frozenset[int] = frozenset()
    """What it was running, by its own account."""
    trusted: bool = True
    """Otherwise it wrote something impossible, and may have run whatever it was given."""


class Watcher(Protocol):
    """Who looks after the workers: hears from the router which of them are in trouble."""

    def overdue(self, link: Link) -> None:
        """A hook of this worker runs past its limit."""

    def gone(self, link: Link) -> None:
        """This worker has closed its end of the channel; it gets nothing more."""

    def silent(self, link: Link) -> None:
        """This worker does not start what it is given; it gets nothing more until `Router.awake`."""

    def corrupt(self, link: Link, error: IpcError) -> None:
        """This worker wrote something that cannot be; it gets nothing more, and is to be ended."""
