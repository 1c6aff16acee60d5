"""One dispatch on its way through the broker, and what a front end may ask of the router."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from tykpy.broker.errors import DispatchError
from tykpy.ipc.bodies.store import Body, body_bytes

if TYPE_CHECKING:
    from tykpy.broker.router.hook_table import HookInfo
    from tykpy.broker.router.link import Link


class Dispatch(ABC):
    """One call from a gateway, from the moment it is complete until it is answered.

    A front end subclasses it with what it needs to answer. The router calls exactly one of `answer` and `fail`, exactly
    once, unless the front end took the dispatch back with `Dispatcher.cancel`; then it calls neither.
    """

    __slots__ = (
        "attempts",
        "body",
        "cost_ns",
        "deadline_ns",
        "hook",
        "kind",
        "limit_ns",
        "link",
        "metadata",
        "name",
        "retried",
        "seq",
        "settled",
        "share",
        "taken_ns",
        "urgent",
        "waiting",
    )

    def __init__(self, kind: int, body: Body, timeout_ns: int | None = None, metadata: bytes | None = None) -> None:
        self.kind = kind
        """An `ipc.frame.Kind`: what `body` is."""
        self.body = body
        """The encoded message: protobuf, or a msgpack map with the message's field names."""
        self.metadata = metadata
        """What the caller says besides, for the hook (see `ipc.frame`); None: nothing."""
        self.deadline_ns = timeout_ns or 0
        """The caller's own time limit in ns (0: none) until the router makes it an absolute CLOCK_MONOTONIC time."""
        self.taken_ns = 0
        """When the router took it."""
        self.limit_ns = 0
        """When its hook is said to hang, whoever still waits for it: the hook's own limit, absolute."""
        self.hook: HookInfo | None = None
        self.name = "event"
        """The hook's name, for messages."""
        self.waiting = False
        """In the broker's queue."""
        self.urgent = False
        """An auth hook: goes before others when both wait."""
        self.link: Link | None = None
        """The worker that has it; None while it waits."""
        self.seq = 0
        """Its number on that worker's ring; 0 where no worker has started it, as far as is known. It is kept when the
        worker has run it and answered."""
        self.cost_ns = 0
        """How long it was expected to compute when it was given to the worker."""
        self.share = 0
        """How much of that worker it takes; see `concurrency`."""
        self.attempts = 0
        """Workers it was given to and that died, by themselves, before they started it."""
        self.retried = False
        """Its hook, an idempotent one, has been run again."""
        self.settled = False
        """Answered, failed or cancelled: nothing more may happen to it."""

    @property
    def encoded(self) -> bytes:
        """The body as bytes, wherever it lies; a copy of a big one."""
        return body_bytes(self.body)

    @abstractmethod
    def answer(self, kind: int, body: bytes) -> None:
        """Send the answer: `body` is encoded as the dispatch's own was, for `kind` the same."""

    @abstractmethod
    def fail(self, error: DispatchError) -> None:
        """Send the error."""


class Dispatcher(Protocol):
    """What front ends need of the router."""

    def dispatch(self, dispatch: Dispatch) -> None:
        """Take the dispatch; may answer or fail it before returning."""

    def cancel(self, dispatch: Dispatch) -> None:
        """Forget the dispatch: dropped if it has not started, its answer thrown away if it has."""
