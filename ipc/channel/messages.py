"""The messages of a channel, and its sizes."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from tykpy.ipc.bodies.store import BorrowedBody
from tykpy.ipc.channel.doorbell import MAX_TOKENS
from tykpy.ipc.errors import OptionsError
from tykpy.ipc.frame import Packed
from tykpy.ipc.ring.layout import ALIGNMENT, SPILL_PLACE, record_size

KIB: Final = 1024
MIB: Final = 1024 * KIB
_MIN_RECORD: Final = record_size(SPILL_PLACE.size)
_MAX_CAPACITY: Final = 1024 * MIB
_BULK_MESSAGE: Final = 16 * MIB
"""Bytes of an answer for two of which there is bulk memory. Larger ones may need memory of their own, whose pages cost
0.4 ms per MiB: a fraction of what the hook takes to parse and encode such a message."""
_SLACK_RECORDS: Final = 2
"""Records' worth of ring that credits leave free: the padding at the end of the ring, and one to spare."""


class Request(NamedTuple):
    """One dispatch for a worker."""

    seq: int
    payload: Packed
    deadline_ns: int
    """Absolute, CLOCK_MONOTONIC; 0: none."""
    borrowed: BorrowedBody | None = None
    """The frame's body, where that is still where the broker has it: `payload` is the frame without it then."""
    flags: int = 0
    """`REQUEST_FLAGS` of `ipc.ring.layout`."""


class Answer(NamedTuple):
    """The answer to one dispatch."""

    seq: int
    is_error: bool
    payload: Packed
    handler_ns: int
    waited_ns: int | None = None
    """How much of that the hook waited; None: not measured."""


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The sizes of one channel, in bytes.

    Raises OptionsError if they leave no credit or are not aligned.
    """

    capacity: int = MIB
    """Of each of the two rings; a power of two."""
    max_record: int = 64 * KIB
    """Largest record including its header; a bigger message goes through bulk memory."""
    max_message: int = 16 * MIB

    def __post_init__(self) -> None:
        if self.capacity & (self.capacity - 1) or not 0 < self.capacity <= _MAX_CAPACITY:
            raise OptionsError(f"capacity {self.capacity} is no power of two up to {_MAX_CAPACITY}")
        if self.max_record % ALIGNMENT or self.max_record < _MIN_RECORD:
            raise OptionsError(f"max_record {self.max_record} is no multiple of {ALIGNMENT} from {_MIN_RECORD} on")
        if self.credits < 1:
            raise OptionsError(f"a ring of {self.capacity} has no room for {1 + _SLACK_RECORDS} x {self.max_record}")
        if self.credits > MAX_TOKENS:
            raise OptionsError(f"{self.credits} requests in flight are above {MAX_TOKENS}: raise max_record")
        if self.max_message < 1:
            raise OptionsError(f"max_message {self.max_message} must be at least 1")

    @property
    def credits(self) -> int:
        """Most requests in flight, K of `(K + 2) * max_record <= capacity`: with it a ring is never full."""
        return self.capacity // self.max_record - _SLACK_RECORDS

    @property
    def bulk_capacity(self) -> int:
        """Bulk memory for big answers; no memory is used or reserved before there is a body to store.

        A body that does not fit gets memory of its own. Workers map bulk memory, and address space counts for
        --limit-memory: so it does not grow with `max_message` beyond answers of `_BULK_MESSAGE`.
        """
        return 2 * max(min(self.max_message, _BULK_MESSAGE), self.capacity)

    @property
    def store_capacity(self) -> int:
        """Store for the big requests of all workers; only the broker maps it."""
        return 16 * max(self.max_message, self.capacity)
