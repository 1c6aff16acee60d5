"""The state of the ring protocol's model: memory, pipes, a broker, workers, and what callers were told."""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, NamedTuple

from tests.model.memory import NO_RECORD, Memory, Ordering, Value

BROKER: Final = 0
"""The broker's number as a process; worker n is process n + 1."""
HALVES: Final = 2
"""Of a record: they are stored and become visible one by one, so a torn record shows."""


class Move(Enum):
    """What a worker can do next."""

    TAKE = "takes a token"
    LOOK = "sees that tail has moved"
    POP = "reads the record"
    ENTER = "stores active_seq"
    COMMIT = "stores head"
    RUN = "runs the hook"
    WRITE = "writes its answer into ring B"
    PUBLISH = "stores tail"
    LEAVE = "stores active_seq = 0"
    RING = "rings"


PROGRAM: Final = (
    Move.TAKE, Move.POP, Move.ENTER, Move.COMMIT, Move.RUN, Move.WRITE, Move.PUBLISH, Move.LEAVE, Move.RING,
)  # fmt: skip
"""The order of `WorkerChannel.claim` and `answer`."""
REFUSAL: Final = (Move.WRITE, Move.PUBLISH, Move.RING, Move.COMMIT)
"""What follows POP if the deadline has passed."""


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol, each of which can be switched off."""

    program: tuple[Move, ...] = PROGRAM
    revoke_takes_tokens: bool = True
    """Otherwise what is not claimed is guessed from the worker's head."""
    forgives_tokens: bool = False
    """To find no record is not damage: the worker waits for the next one."""
    drains_the_dead: bool = True
    """What a dead worker has published counts, announced or not."""


@dataclass(frozen=True)
class Scope:
    """The size of the model."""

    ordering: Ordering
    messages: int = 3
    workers: int = 2
    credits: int = 2
    """Requests in flight at one worker."""
    capacity: int = 2
    """Records per ring; refusals answer before they give their room back and need one more than there are credits."""
    kills: int = 1
    revokes: int = 1
    cancels: int = 0
    refusals: int = 0
    idempotent: frozenset[int] = frozenset()


class Told(IntEnum):
    """What a caller has heard."""

    NOTHING = 0
    ANSWER = 1
    ERROR = 2
    CANCELLED = 3
    """It went away, or its deadline passed: nothing more is told."""
    EXPIRED = 4


class Call(NamedTuple):
    """A message under the number of one of its dispatches."""

    seq: int
    body: int


class Worker(NamedTuple):
    """A worker's own memory, and its place in its program."""

    alive: bool = True
    at: int = 0
    """Index into its program."""
    refuses: bool = False
    consumed: int = 0
    produced: int = 0
    call: Call = Call(-1, -1)


class Link(NamedTuple):
    """What the broker knows about a worker, and the two doorbells between them."""

    published: tuple[Call, ...] = ()
    unrung: int = 0
    produced: int = 0
    consumed: int = 0
    tokens: int = 0
    rung: int = 0


class Left(NamedTuple):
    """How often each optional event may still happen."""

    kills: int
    revokes: int
    cancels: int
    refusals: int


class State(NamedTuple):
    """One state of the whole model."""

    memory: Memory
    workers: tuple[Worker, ...]
    links: tuple[Link, ...]
    queue: tuple[int, ...]
    told: tuple[Told, ...]
    runs: tuple[int, ...]
    """How often each message's hook was run."""
    sends: tuple[int, ...]
    deaths: tuple[int, ...]
    """Workers that have died with a message, counted for idempotent ones."""
    left: Left

    def with_worker(self, index: int, worker: Worker) -> "State":
        """Return a state in which one worker is changed."""
        return self._replace(workers=self.workers[:index] + (worker,) + self.workers[index + 1 :])

    def with_link(self, index: int, link: Link) -> "State":
        """Return a state in which one link is changed."""
        return self._replace(links=self.links[:index] + (link,) + self.links[index + 1 :])


class Layout:
    """The addresses of the model's memory."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._records = HALVES * capacity
        self.size = 2 * self._records + 5
        """Cells of one worker's two segments."""
        self.fresh: tuple[Value, ...] = (NO_RECORD,) * (2 * self._records) + (0,) * 5

    def request(self, worker: int, position: int) -> tuple[int, int]:
        """Return the addresses of the two halves of a record in ring A."""
        first = worker * self.size + HALVES * (position % self._capacity)
        return first, first + 1

    def answer(self, worker: int, position: int) -> tuple[int, int]:
        """Return the addresses of the two halves of a record in ring B."""
        first, second = self.request(worker, position)
        return first + self._records, second + self._records

    def request_tail(self, worker: int) -> int:
        """Tail of ring A."""
        return (worker + 1) * self.size - 5

    def request_head(self, worker: int) -> int:
        """Head of ring A: how much the worker has taken."""
        return (worker + 1) * self.size - 4

    def answer_tail(self, worker: int) -> int:
        """Tail of ring B."""
        return (worker + 1) * self.size - 3

    def answer_head(self, worker: int) -> int:
        """Head of ring B: how much the broker has taken."""
        return (worker + 1) * self.size - 2

    def active(self, worker: int) -> int:
        """Address of active_seq, which is 0 or a sequence number."""
        return (worker + 1) * self.size - 1
