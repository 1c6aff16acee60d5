"""The worker's end of its channel: claim a request, execute it, answer it.

The order of the stores is the protocol, see `claim` and `answer`: it makes a kill at any point classifiable.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final, NamedTuple, Self

from tykpy.ipc.bodies.announce import OversizeReader, OversizeWriter, read_announcement
from tykpy.ipc.bodies.bulk import BulkWriter
from tykpy.ipc.bodies.heap import give_back, keep_freed
from tykpy.ipc.bodies.memfd import SpillSocket
from tykpy.ipc.bodies.store import BORROW_FROM, BodyReader, BorrowedBody
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.channel.doorbell import ClaimDoorbell, RingBell
from tykpy.ipc.channel.messages import Request
from tykpy.ipc.clock import monotonic_ns
from tykpy.ipc.errors import SegmentError, SpillError
from tykpy.ipc.frame import Packed, Status, pack_error
from tykpy.ipc.ring.layout import (
    ACTIVE_SEQ,
    ACTIVE_START,
    FLAG_ERROR,
    FLAG_MEASURE,
    LOG_LOST,
    OWN_MEMORY,
    REQUEST_FLAGS,
    SIGNALLED,
    STORAGE_ERRORS,
    STORAGE_STATE,
    STORAGE_TIMES,
    STORAGE_TIMES_EACH,
    THREADS,
    Identity,
    RecordType,
    Role,
    StorageOperation,
    StorageState,
)
from tykpy.ipc.ring.ring import Consumer, Producer
from tykpy.ipc.ring.segment import Segment, keep_from_children

_REQUESTS: Final = frozenset(
    kind | flags
    for kind in (RecordType.REQ, RecordType.SPILL_REQ)
    for flags in range(0, REQUEST_FLAGS + 1, FLAG_MEASURE)
)
_SPILL_REQ: Final = int(RecordType.SPILL_REQ)
_SPILL_RESP: Final = int(RecordType.SPILL_RESP)
_RESP: Final = int(RecordType.RESP)
_ERR: Final = int(RecordType.ERR)
_DESCRIPTORS: Final = 9
"""Two segments, bulk memory both ways, two doorbells, two sockets."""
_NewRequest = Callable[[type[Request], tuple[int, Packed, int, BorrowedBody | None, int]], Request]
_new_request: Final[_NewRequest] = tuple.__new__
"""Builds a Request in half the time that its own constructor takes."""


class _Parts(NamedTuple):
    """The worker's ends of everything that makes up a channel."""

    inbound: Segment
    outbound: Segment
    bodies: BodyReader
    bulk_out: BulkWriter
    requests: ClaimDoorbell
    answers: RingBell
    control: ControlSocket
    spills: SpillSocket


class WorkerChannel:
    """Claim requests from one thread at a time, and answer them from any number."""

    def __init__(self, parts: _Parts, stacks_fd: int) -> None:
        inbound, outbound = parts.inbound, parts.outbound
        self.control = parts.control
        self._parts = parts
        self._take = parts.requests.take
        self._ring = parts.answers.ring
        self._words = outbound.words
        consumer = Consumer(inbound, outbound, _REQUESTS)
        self._pop = consumer.pop
        self._commit = consumer.commit
        producer = Producer(outbound, inbound)
        self._push = producer.push
        self._oversize_out = OversizeWriter(producer, parts.bulk_out, parts.spills)
        self._oversize_in = OversizeReader(parts.bodies, parts.spills, outbound.identity.max_message, skip_revoked=True)
        self._fetch = self._copy
        self.max_message = outbound.identity.max_message
        """Largest answer in bytes."""
        self._max_payload = min(outbound.identity.max_payload, self.max_message)
        self._answer_lock = Lock()
        self._big_lately = False
        """Whether a request was too big for a record since the last `trim`."""
        self.stacks_fd = stacks_fd
        """Where the broker reads the stacks that it asks for with `STACKS_SIGNAL`."""
        self.descriptors: tuple[int, ...] = ()
        """Descriptors that must stay open as long as the channel is used."""

    @classmethod
    def attach(cls, argument: str) -> Self:
        """Take over the inherited descriptors that `BrokerChannel.worker_argument` names.

        No child of the worker inherits them. Raises SegmentError if they are not what the argument promises.
        """
        descriptors = _parse(argument)
        try:
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            inbound = _map(descriptors[0], Role.A)
            outbound = _map(descriptors[1], Role.B)
            _check_pair(inbound.identity, outbound.identity)
            control, spills = (socket.socket(fileno=descriptor) for descriptor in descriptors[-2:])
        except OSError as error:
            raise SegmentError(f"{argument!r} names a descriptor that is not there: {error.strerror}") from error
        for memory in (inbound.memory, outbound.memory):
            keep_from_children(memory)
        channel = cls(
            _Parts(
                inbound,
                outbound,
                BodyReader(descriptors[2]),
                BulkWriter(descriptors[3]),
                ClaimDoorbell(descriptors[4]),
                RingBell(descriptors[5]),
                ControlSocket(control, blocking=True),
                SpillSocket(spills, outbound.device),
            ),
            stacks_fd=descriptors[6],
        )
        # The first two were for the segments, which are mapped by now.
        channel.descriptors = tuple(descriptors[2:])
        return channel

    def borrow_bodies(self) -> None:
        """From now on leave large stored bodies in place, as `Request.borrowed`, instead of copying them."""
        self._fetch = self._borrow

    def _copy(self, seq: int, payload: bytes) -> tuple[Packed, BorrowedBody | None]:
        return self._oversize_in.fetch(seq, payload), None

    def _borrow(self, seq: int, payload: bytes) -> tuple[Packed, BorrowedBody | None]:
        size, offset, head = read_announcement(payload, self.max_message)
        if size < BORROW_FROM or offset == OWN_MEMORY or not head:
            return self._copy(seq, payload)
        return (head, None), self._parts.bodies.borrow(offset, size, self.max_message)

    @property
    def identity(self) -> Identity:
        """Slot, generation and epoch of this worker, sizes of its rings."""
        return self._parts.outbound.identity

    def show_storage(self, state: StorageState, errors: int) -> None:
        """Publish the state of the storage and its count of errors."""
        self._words[STORAGE_STATE] = state
        self._words[STORAGE_ERRORS] = errors

    def count_storage(self, operation: StorageOperation, bucket: int, duration_ns: int) -> None:
        """Count a use of the storage, and its time. Without a lock: of two threads, one may be missed."""
        start = STORAGE_TIMES + operation * STORAGE_TIMES_EACH
        self._words[start] += duration_ns
        self._words[start + 1 + bucket] += 1

    def show_log_lost(self, records: int) -> None:
        """Publish how many records of the log were lost."""
        self._words[LOG_LOST] = records

    def claim(self, slot: int = 0) -> Request | None:
        """Wait for a request and enter it into an execution slot; return None once no more will come.

        No more come once the broker drains the worker, or is gone. Called by one thread at a time. Requests that have
        expired in the ring are answered here, unexecuted. Raises RingCorruptError.
        """
        while self._take():
            request = self._start(slot, monotonic_ns())
            self._commit()
            if request is not None:
                return request
        return None

    def _start(self, slot: int, now_ns: int) -> Request | None:
        kind, seq, deadline_ns, payload = self._pop()
        if deadline_ns and now_ns >= deadline_ns:
            self._refuse(seq, Status.EXPIRED, "the deadline passed before a worker was free")
            return None
        flags = kind & REQUEST_FLAGS
        if kind - flags == _SPILL_REQ:
            if not self._big_lately:
                self._big_lately = True
                keep_freed()
            try:
                message, borrowed = self._fetch(seq, payload)
            except (SpillError, MemoryError) as error:
                self._refuse(seq, Status.INTERNAL, str(error) or "no memory to read the request: --limit-memory")
                return None
        else:
            message, borrowed = (payload, None), None
        # From the second of these stores on the request counts as executing; until then it would be dispatched again.
        words = self._words
        words[ACTIVE_START + slot] = now_ns
        words[ACTIVE_SEQ + slot] = seq
        return _new_request(Request, (seq, message, deadline_ns, borrowed, flags))

    def _refuse(self, seq: int, status: Status, message: str) -> None:
        with self._answer_lock:
            self._push_error(seq, status, message, 0)
        self._ring(1)

    def _push_error(self, seq: int, status: Status, message: str, handler_ns: int) -> None:
        self._push(_ERR, seq, handler_ns, pack_error(status, message)[0])

    def answer(self, slot: int, seq: int, packed: Packed, is_error: bool, time: int) -> None:
        """Publish the answer, leave the execution slot, ring; `time`: the handler's, see `aux` in `ipc.ring.layout`.

        An answer that is too large, or for which there is no memory, becomes an error frame that says so.
        """
        head, body = packed
        with self._answer_lock:
            if body is None and len(head) <= self._max_payload:
                self._push(_ERR if is_error else _RESP, seq, time, head)
            else:
                self._publish_big(seq, packed, is_error, time)
            words = self._words
            words[ACTIVE_SEQ + slot] = 0
        self._ring(1)

    def _publish_big(self, seq: int, packed: Packed, is_error: bool, time: int) -> None:
        head, body = packed
        if body is None:
            head, body = b"", head
        assert isinstance(body, bytes)
        size = len(body)
        if size > self.max_message:
            # The broker adds the limit, and the option that sets it.
            self._push_error(seq, Status.TOO_LARGE, f"the answer has {size} bytes", time)
            return
        kind = _SPILL_RESP | FLAG_ERROR if is_error else _SPILL_RESP
        try:
            self._oversize_out.publish(kind, seq, time, head, body)
        except (SpillError, MemoryError) as error:
            message = str(error) or "no memory to send the answer: --limit-memory"
            self._push_error(seq, Status.INTERNAL, message, time)

    def move(self, seq: int, from_slot: int, to_slot: int) -> None:
        """Move an asynchronous hook from the claiming thread's slot to its own; it is always in one of them."""
        words = self._words
        words[ACTIVE_START + to_slot] = words[ACTIVE_START + from_slot]
        words[ACTIVE_SEQ + to_slot] = seq
        words[ACTIVE_SEQ + from_slot] = 0

    def trim(self) -> None:
        """Release the memory of big bodies; the broker asks for this when none have come for a while."""
        with self._answer_lock:
            self._oversize_out.trim()
        self._big_lately = False
        give_back()

    def show_threads(self, started: int) -> None:
        """Publish the number of threads for hooks."""
        self._words[THREADS] = started

    def note_signal(self) -> None:
        """Tell the broker that this worker ends because somebody sent it a fault signal."""
        self._words[SIGNALLED] = 1

    def abandon(self) -> None:
        """Close the descriptors in a forked child, where the memory is not mapped."""
        for descriptor in self.descriptors:
            with suppress(OSError):  # plugin code may have closed it
                os.close(descriptor)

    def close(self) -> None:
        """Close everything; no thread may use the channel any more."""
        for part in reversed(self._parts):
            part.close()
        os.close(self.stacks_fd)


def _parse(argument: str) -> list[int]:
    try:
        descriptors = [int(number) for number in argument.split(",")]
    except ValueError as error:
        raise SegmentError(f"{argument!r} is no channel argument") from error
    if len(descriptors) != _DESCRIPTORS:
        raise SegmentError(f"{argument!r} names {len(descriptors)} descriptors, not {_DESCRIPTORS}")
    return descriptors


def _map(descriptor: int, role: Role) -> Segment:
    """Map a ring; only the mapping stays, so that nobody in this process can shrink it through the descriptor."""
    try:
        segment = Segment.map(descriptor, writable=role == Role.B)
    finally:
        os.close(descriptor)
    if segment.identity.role != role:
        raise SegmentError(f"segment {segment.identity.role} where {role} belongs")
    return segment


def _check_pair(inbound: Identity, outbound: Identity) -> None:
    if inbound[1:] != outbound[1:]:
        raise SegmentError(f"two segments that do not belong together: {inbound}, {outbound}")
