"""The broker's end of one worker's channel; nothing here blocks, and nothing here trusts the worker."""

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from typing import Final, NamedTuple, Self

from tykpy.ipc.bodies.announce import OversizeReader, OwnMemoryWriter
from tykpy.ipc.bodies.bulk import BulkReader
from tykpy.ipc.bodies.heap import keep_freed
from tykpy.ipc.bodies.memfd import SpillSocket, release
from tykpy.ipc.bodies.store import BodyStore, StoredBody
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.channel.doorbell import AnswerDoorbell, RequestDoorbell
from tykpy.ipc.channel.messages import Answer, ChannelOptions
from tykpy.ipc.channel.stacks import StacksPipe
from tykpy.ipc.errors import CreditError, MessageTooLargeError, RingCorruptError, SegmentError, SpillError
from tykpy.ipc.frame import Packed, Status, pack_error
from tykpy.ipc.ring.layout import (
    ACTIVE_SEQ,
    ACTIVE_START,
    EXECUTION_SLOTS,
    FLAG_ERROR,
    HEAD,
    LOG_LOST,
    MAX_HANDLER_NS,
    MAX_WAITING,
    SIGNALLED,
    SPILL_PLACE,
    STORAGE_ERRORS,
    STORAGE_STATE,
    STORAGE_TIMES,
    STORAGE_TIMES_EACH,
    THREADS,
    WAITING_SHIFT,
    Identity,
    RecordType,
    Role,
    StorageOperation,
)
from tykpy.ipc.ring.ring import Consumer, Producer
from tykpy.ipc.ring.segment import Segment, create_bulk, create_segment

_ANSWERS: Final = frozenset(
    {RecordType.RESP, RecordType.ERR, RecordType.SPILL_RESP, RecordType.SPILL_RESP | FLAG_ERROR}
)
_REQ: Final = int(RecordType.REQ)
_SPILL_REQ: Final = int(RecordType.SPILL_REQ)
_RESP: Final = int(RecordType.RESP)
_ERR: Final = int(RecordType.ERR)
_IN_RECORD: Final = (_RESP, _ERR)
_SPILL_ERR: Final = RecordType.SPILL_RESP | FLAG_ERROR
_new_answer: Final[Callable[[type[Answer], tuple[int, bool, Packed, int, int | None]], Answer]] = tuple.__new__
"""Builds an Answer in half the time that its own constructor takes."""


class _Parts(NamedTuple):
    """The broker's ends of everything that makes up a channel."""

    outbound: Segment
    inbound: Segment
    requests: RequestDoorbell
    answers: AnswerDoorbell
    control: ControlSocket
    spills: SpillSocket
    bodies: BodyStore
    bulk_in: BulkReader
    stacks: StacksPipe


class BrokerChannel:
    """Send requests to one worker generation and receive its answers; used by one thread."""

    def __init__(self, parts: _Parts, options: ChannelOptions, worker_fds: tuple[int, ...]) -> None:
        self._parts = parts
        self.control = parts.control
        self.answers_fd = parts.answers.fd
        """Readable when the worker has rung."""
        self.worker_fds = worker_fds
        """Descriptors that the worker must inherit (`pass_fds`)."""
        self.bodies = parts.bodies
        """Store of big request bodies, read by workers in place."""
        self.corrupt: RingCorruptError | None = None
        """Set for good once the worker wrote something impossible to its ring or header; see `drain`."""
        self._options = options
        self._max_payload = min(parts.outbound.identity.max_payload, options.max_message)
        self._credits = options.credits
        self._producer = Producer(parts.outbound, parts.inbound)
        self._consumer = Consumer(parts.inbound, parts.outbound, _ANSWERS)
        self._oversize_out = OwnMemoryWriter(self._producer, parts.spills)
        self._oversize_in = OversizeReader(parts.bulk_in, parts.spills, options.max_message, skip_revoked=False)
        self._push = self._producer.push
        self._pop = self._consumer.pop
        self._take_all = parts.answers.take_all
        self._published: dict[int, int] = {}
        """Position of the record of each unanswered request, oldest first."""
        self._forget = self._published.pop
        self._unrung = 0
        """How many of the newest have no doorbell token yet."""
        self._spilled: dict[int, int] = {}
        self._big_lately = self._big_before = False
        """A message was too big for a record: since the last call of `trim`, and between the last two."""
        self._salvaged: list[Answer] = []
        self._worker_ends = ExitStack()
        self._own_ends = ExitStack()

    @classmethod
    def create(
        cls, slot: int, generation: int, epoch: int, options: ChannelOptions, bodies: BodyStore | None = None
    ) -> Self:
        """Create everything that a worker of this slot and generation needs, including a store if none is given.

        Raises SegmentError if the machine has no memory or descriptors left; nothing is left behind then.
        """
        with ExitStack() as own, ExitStack() as worker:
            try:
                parts, inherited = _create_parts((epoch, slot, generation), options, bodies, own, worker)
            except OSError as error:
                raise SegmentError(f"cannot create a channel: {error.strerror}") from error
            channel = cls(parts, options, inherited)
            channel._own_ends, channel._worker_ends = own.pop_all(), worker.pop_all()
        return channel

    def worker_argument(self) -> str:
        """The argv field that tells `WorkerChannel.attach` what each inherited descriptor is."""
        return ",".join(map(str, self.worker_fds))

    def close_worker_ends(self) -> None:
        """Close the worker's descriptors once it runs; otherwise the control socket would never report end of file."""
        self._worker_ends.close()

    def send(self, seq: int, packed: Packed, deadline_ns: int, flags: int = 0) -> None:
        """Publish a request; the next `ring` announces it to the worker.

        A stored body stays where it is, and must stay until the request is answered; any other that is too big for a
        record is copied into memory of its own. `flags`: REQUEST_FLAGS of `ipc.ring.layout`.

        Raises MessageTooLargeError, SpillError (no memory for a big one), SpillClosedError (the worker is gone),
        CreditError and RingFullError (a fault of the caller), RingCorruptError (a fault of the worker). Nothing was
        sent then.
        """
        published = self._published
        if len(published) >= self._credits:
            raise CreditError(self._credits)
        head, body = packed
        if body is None and len(head) <= self._max_payload:
            published[seq] = self._push(_REQ | flags, seq, deadline_ns, head)
        else:
            self._send_big(_SPILL_REQ | flags, seq, deadline_ns, packed)
        self._unrung += 1

    def _send_big(self, kind: int, seq: int, deadline_ns: int, packed: Packed) -> None:
        head, body = packed
        if body is None:
            head, body = b"", head
        size = len(body)
        if size > self._options.max_message:
            raise MessageTooLargeError(size, self._options.max_message)
        self._notice_big()
        if isinstance(body, StoredBody):
            place = SPILL_PLACE.pack(size, body.offset)
            self._published[seq] = self._push(kind, seq, deadline_ns, place + head)
        else:
            self._published[seq], self._spilled[seq] = self._oversize_out.push(kind, seq, deadline_ns, head, body)

    def ring(self) -> None:
        """Announce all requests sent since the last call with one write."""
        if self._unrung:
            self._parts.requests.ring(self._unrung)
            self._unrung = 0

    def revoke(self) -> list[int]:
        """Take back every request that the worker has not claimed, as if it had never been sent; oldest first.

        A request without a token can no longer be claimed, so its record is free to be overwritten. The worker claims
        in order: the tokens that are left are those of the newest requests. Raises RingCorruptError if the worker has
        tampered with them; nothing is taken back then, since it may have started any of them.
        """
        if self.corrupt is not None:
            raise self.corrupt
        published = self._published
        try:
            count = self._parts.requests.take_back(len(published) - self._unrung) + self._unrung
            revoked = [*islice(reversed(published), count)]
            if revoked:
                self._check_not_started(revoked)
        except RingCorruptError as error:
            self.corrupt = error
            raise
        if revoked:
            self._producer.rewind(published[revoked[-1]])
            self._unrung = 0
        for seq in revoked:
            del published[seq]
            self._release_spilled(seq, discard=True)
        revoked.reverse()
        return revoked

    def _check_not_started(self, revoked: list[int]) -> None:
        """Raise if a request was started although its token was still there: the worker has written to the doorbell."""
        head, start = self._parts.inbound.words[HEAD], self._published[revoked[-1]]
        started = self.executing().intersection(revoked)
        if head > start or started:
            raise RingCorruptError(
                "requests that were not claimed have been started", head=head, start=start, started=len(started)
            )

    def start_drain(self) -> list[int]:
        """Revoke what is not claimed, then tell the worker to finish the rest and end; returns the revoked seqs.

        Raises RingCorruptError if it has filled its doorbell.
        """
        revoked = self.revoke()
        self._parts.requests.end()
        return revoked

    def receive(self) -> list[Answer]:
        """Return the announced answers, at most one for each doorbell token.

        Raises RingCorruptError; `drain` then returns the answers that came before the damage.
        """
        if self.corrupt is not None:
            raise self.corrupt
        answers: list[Answer] = []
        next_answer = self._next_answer
        try:
            for _ in range(self._take_all()):
                answers.append(next_answer())  # one by one: what came before an error is kept
        except RingCorruptError as error:
            self.corrupt = error
            self._salvaged += answers
            raise
        finally:
            self._consumer.commit()
        return answers

    def drain(self) -> list[Answer]:
        """Return all published answers of a worker that has died, announced or not.

        If `corrupt` is set afterwards, requests that are neither answered nor executing may have run as well.
        """
        answers, self._salvaged = self._salvaged, []
        try:
            while self.corrupt is None and self._consumer.readable():
                answers.append(self._next_answer())
        except RingCorruptError as error:
            self.corrupt = error
        self._consumer.commit()
        return answers

    def _next_answer(self) -> Answer:
        kind, seq, handler_ns, payload = self._pop()
        waited_ns = None
        if handler_ns > MAX_HANDLER_NS:
            handler_ns, waited_ns = _split_time(handler_ns)
        if self._forget(seq, None) is None:
            raise RingCorruptError("an answer to nothing in flight", seq=seq, in_flight=len(self._published))
        if self._spilled:
            self._release_spilled(seq, discard=False)
        if kind in _IN_RECORD:
            return _new_answer(Answer, (seq, kind == _ERR, (payload, None), handler_ns, waited_ns))
        return self._fetch(kind == _SPILL_ERR, seq, payload)._replace(handler_ns=handler_ns, waited_ns=waited_ns)

    def _fetch(self, is_error: bool, seq: int, payload: bytes) -> Answer:
        self._notice_big()
        try:
            message = self._oversize_in.fetch(seq, payload)
        except SpillError as error:
            return Answer(seq, True, pack_error(Status.INTERNAL, f"the answer is lost: {error}"), 0)
        return Answer(seq, is_error, message, 0)

    def _release_spilled(self, seq: int, *, discard: bool) -> None:
        memory = self._spilled.pop(seq, None)
        if memory is not None:
            release(memory, discard=discard)

    def executing(self) -> frozenset[int]:
        """Return the requests in flight that the worker says it is executing.

        After its death call `drain` first: an answer takes precedence, since the worker publishes it before it clears
        the slot.
        """
        active = self._parts.inbound.words[ACTIVE_SEQ : ACTIVE_SEQ + EXECUTION_SLOTS]
        return frozenset(seq for seq in active.tolist() if seq in self._published)

    def execution_started_ns(self, seq: int) -> int:
        """Return when the worker says it started a request (CLOCK_MONOTONIC), 0 if it is not executing it."""
        words = self._parts.inbound.words
        for slot in range(EXECUTION_SLOTS):
            if words[ACTIVE_SEQ + slot] == seq:
                return int(words[ACTIVE_START + slot])
        return 0

    def in_flight(self) -> int:
        """Count requests sent and neither answered nor revoked; at most `ChannelOptions.credits`."""
        return len(self._published)

    def hook_threads(self) -> int:
        """Threads for hooks that the worker says it has started; not checked."""
        return int(self._parts.inbound.words[THREADS])

    def storage_times(self, operation: StorageOperation) -> list[int]:
        """The sum in ns, and the calls per bucket, of a storage operation in the worker; not checked."""
        start = STORAGE_TIMES + operation * STORAGE_TIMES_EACH
        return self._parts.inbound.words[start : start + STORAGE_TIMES_EACH].tolist()

    def written_stacks(self) -> bytes:
        """What the worker has written on `STACKS_SIGNAL` since the last call; not checked."""
        return self._parts.stacks.read()

    def log_lost(self) -> int:
        """Records of the worker's log that were lost; not checked."""
        return int(self._parts.inbound.words[LOG_LOST])

    def storage_health(self) -> tuple[int, int]:
        """The worker's StorageState and its count of storage errors; not checked."""
        words = self._parts.inbound.words
        return words[STORAGE_STATE], words[STORAGE_ERRORS]

    def was_signalled(self) -> bool:
        """Whether the worker reports that it is ending because somebody sent it a fault signal."""
        return bool(self._parts.inbound.words[SIGNALLED])

    def trim(self) -> bool:
        """Tell the worker to release memory of big messages if none came since the last call, but some before.

        Returns whether it was told. Raises ControlClosedError if the worker is gone.
        """
        lately, self._big_lately = self._big_lately, False
        ended = self._big_before and not lately
        self._big_before = lately
        if ended:
            self.control.send("trim")
        return ended

    def _notice_big(self) -> None:
        if not self._big_lately:
            self._big_lately = True
            keep_freed()

    def close(self) -> None:
        """Close everything; a worker that is still alive sees end of file on its control socket."""
        for memory in self._spilled.values():
            release(memory, discard=False)
        self._spilled.clear()
        self._worker_ends.close()
        self._own_ends.close()


def _split_time(aux: int) -> tuple[int, int]:
    """Split `aux` into a hook's running time and the part of it spent waiting, which is never larger."""
    handler_ns = aux & MAX_HANDLER_NS
    waiting = (aux >> WAITING_SHIFT) - 1
    return handler_ns, handler_ns * waiting // MAX_WAITING


def _create_parts(
    names: tuple[int, int, int],
    options: ChannelOptions,
    bodies: BodyStore | None,
    own: ExitStack,
    worker: ExitStack,
) -> tuple[_Parts, tuple[int, ...]]:
    """Create the broker's ends, and the descriptors for the worker in the order in which it takes them."""
    sizes = (options.capacity, options.max_record, options.max_message)
    outbound, outbound_fd = _create_ring(Identity(Role.A, *names, *sizes), own, worker)
    inbound, inbound_fd = _create_ring(Identity(Role.B, *names, *sizes), own, worker)
    requests = RequestDoorbell(own, worker)
    answers = AnswerDoorbell(own, worker)
    control_socket, control_fd = _create_pair(worker)
    control = ControlSocket(control_socket, blocking=False)
    own.callback(control.close)
    spill_socket, spill_fd = _create_pair(worker)
    spills = SpillSocket(spill_socket, outbound.device)
    own.callback(spills.close)
    if bodies is None:
        bodies = BodyStore(options.store_capacity)
        own.callback(bodies.close)
    bulk_in, bulk_in_fd = _create_bulk_in(options.bulk_capacity, own, worker)
    bulk_fds = (bodies.readable, bulk_in_fd)
    stacks = StacksPipe(own, worker)
    bells = (requests.worker_fd, answers.worker_fd)
    inherited = (outbound_fd, inbound_fd, *bulk_fds, *bells, stacks.worker_fd, control_fd, spill_fd)
    return _Parts(outbound, inbound, requests, answers, control, spills, bodies, bulk_in, stacks), inherited


def _create_bulk_in(capacity: int, own: ExitStack, worker: ExitStack) -> tuple[BulkReader, int]:
    descriptors = create_bulk(capacity)
    worker.callback(os.close, descriptors.writable)
    reader = BulkReader(descriptors.readable)
    own.callback(reader.close)
    return reader, descriptors.writable


def _create_ring(identity: Identity, own: ExitStack, worker: ExitStack) -> tuple[Segment, int]:
    """Create one ring: the broker's mapping and the worker's descriptor. Only its writer can write to it."""
    descriptors = create_segment(identity)
    broker_writes = identity.role == Role.A
    mine, theirs = descriptors if broker_writes else reversed(descriptors)
    worker.callback(os.close, theirs)
    try:
        segment = Segment.map(mine, writable=broker_writes)
    finally:
        os.close(mine)
    own.callback(segment.close)
    return segment, theirs


def _create_pair(worker: ExitStack) -> tuple[socket.socket, int]:
    mine, theirs = socket.socketpair()
    worker.callback(theirs.close)
    return mine, theirs.fileno()
