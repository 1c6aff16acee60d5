"""One dispatch on its way through the broker, and the router's interface for front ends."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from tykpy.broker.errors import DispatchError
from tykpy.broker.router.hook_info import HookInfo
from tykpy.broker.router.hook_stats import EVENT, HookStats
from tykpy.broker.router.peek import CUSTOM_KEY_CHECK
from tykpy.ipc.bodies.store import Body, body_bytes
from tykpy.ipc.description import MAX_NAME
from tykpy.telemetry.records import shorten


class DispatchTrace(Protocol):
    """The trace of one dispatch that is sampled (see `broker.tracing.spans`). No method raises."""

    carrier: dict[str, str]
    """The dispatch's span, for the worker that makes children of it."""

    @property
    def trace_id(self) -> str:
        """The id in hexadecimal."""

    def sent(self, worker: int) -> None:
        """Note that the dispatch was given to a worker."""

    def end(self, code: int, message: str = "") -> None:
        """Export the spans of a dispatch that has ended; `code` is a `GrpcCode`, `message` says what failed."""


class Dispatch(ABC):
    """One call from a gateway, from the moment it is complete until it is answered.

    A front end subclasses it with what it needs to answer. The router calls exactly one of `answer` and `fail`, exactly
    once, unless the front end took the dispatch back with `Dispatcher.cancel`; then it calls neither.
    """

    protocol: ClassVar[str] = ""
    """The protocol of its caller, as traces name it; empty for the broker itself."""

    __slots__ = (
        "api_id",
        "attempts",
        "body",
        "completed",
        "cost_ns",
        "deadline_ns",
        "hook",
        "hook_type",
        "kind",
        "limit_ns",
        "link",
        "metadata",
        "name",
        "reads",
        "recorded",
        "retried",
        "seq",
        "share",
        "taken_ns",
        "trace",
        "waiting",
        "worker",
    )

    def __init__(self, kind: int, body: Body, timeout_ns: int | None = None, metadata: bytes | None = None) -> None:
        self.kind = kind
        """An `ipc.frame.Kind`: what `body` is."""
        self.body = body
        """The encoded message: protobuf, or a msgpack map with the message's field names."""
        self.metadata = metadata
        """The caller's gRPC metadata, for the hook (see `ipc.frame`); None: there is none."""
        self.deadline_ns = timeout_ns or 0
        """The caller's own time limit in ns (0: none) until the router makes it an absolute CLOCK_MONOTONIC time."""
        self.taken_ns = 0
        """When the router took it."""
        self.limit_ns = 0
        """When the hook's own limit ends, absolute: a hook that still runs then hangs, whoever waits for it."""
        self.hook: HookInfo | None = None
        self.hook_type = EVENT
        """The number of its `coprocess.HookType`, unchecked; `EVENT` for an event."""
        self.api_id = ""
        """The API's id, as the gateway sends it."""
        self.name = "event"
        """The hook's name, for messages."""
        self.waiting = False
        """Whether it waits in the broker's queue."""
        self.link: object = None
        """The `Link` of the worker that has it, or None. An object to this module, which links import."""
        self.seq = 0
        """Its number on that worker's ring; 0 where no worker is known to have started it. It stays when the worker has
        run it and answered."""
        self.cost_ns = 0
        """How long it was expected to compute when it was given to the worker."""
        self.share = 0
        """How much of that worker it takes; see `HookTimes.share`."""
        self.attempts = 0
        """Workers that crashed before they started it."""
        self.retried = False
        """Whether its hook, an idempotent one, has been run again."""
        self.worker: int | None = None
        """The number of the worker that it was given to last."""
        self.completed = False
        """Answered, failed or cancelled: nothing more may happen to it."""
        self.trace: DispatchTrace | None = None
        """The trace that it belongs to; None if it is not traced."""
        self.recorded: bool | None = None
        """Whether it is in a recording; None: that is not decided, because none ran when it was taken."""
        self.reads = b""
        """What its hook read, packed, if it is recorded and has been answered; see `ipc.reads`."""

    @property
    def urgent(self) -> bool:
        """Whether it is for an auth hook, which goes before others when both wait."""
        return self.hook_type == CUSTOM_KEY_CHECK

    @property
    def bundle(self) -> str:
        """The name of the hook's bundle, as workers describe it; empty if none has the hook."""
        return "" if self.hook is None else self.hook.stats.id[0]

    @property
    def title(self) -> str:
        """What it calls, for the log: `hook check of bundle auth.py`. Names that clients choose are cut."""
        kind = "handler" if self.hook_type == EVENT else "hook"
        return f"{kind} {shorten(self.name, MAX_NAME)}" + (f" of bundle {self.bundle}" if self.bundle else "")

    @property
    def encoded(self) -> bytes:
        """The body as bytes, wherever it lies; copies a large one."""
        return body_bytes(self.body)

    @abstractmethod
    def answer(self, kind: int, body: bytes) -> None:
        """Send the answer; `kind` and the encoding of `body` are the dispatch's own."""

    @abstractmethod
    def fail(self, error: DispatchError) -> None:
        """Send the error."""


class Dispatcher(Protocol):
    """The part of the router that front ends use."""

    def dispatch(self, dispatch: Dispatch) -> None:
        """Take the dispatch; may answer or fail it before returning."""

    def cancel(self, dispatch: Dispatch) -> None:
        """Forget the dispatch: drop it if it has not started, discard its answer if it has."""


class DispatchObserver(Protocol):
    """Is told about dispatches that have ended."""

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
        """Look at a dispatch. `hook_ns`: how long its hook ran, None: it was not run; `message`: why it failed."""


class DispatchTracer(Protocol):
    """Decides which dispatches are traced."""

    def begin(self, dispatch: Dispatch, hook: HookInfo) -> None:
        """Set the trace of a dispatch for this hook, if it is sampled; never raises."""
