"""Both ends of a channel in one process, and what tests do to them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import ChannelOptions, Request
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.frame import Packed
from tykpy.ipc.ring.layout import HEADER_SIZE, STATIC_SIZE, TAIL, WORD, Identity, Role
from tykpy.ipc.ring.ring import Consumer, Producer
from tykpy.ipc.ring.segment import Segment, create_segment

SMALL = ChannelOptions(capacity=4096, max_record=512, max_message=65536)
KINDS = frozenset({1, 2, 7})
STATIC_WORDS = STATIC_SIZE // WORD


def worker_argument_of_copies(broker: BrokerChannel) -> str:
    """The argument for a worker in this process: with descriptors of its own, as exec gives it."""
    return ",".join(str(os.dup(descriptor)) for descriptor in broker.worker_fds)


@contextmanager
def channel_pair(
    options: ChannelOptions = SMALL, bodies: BodyStore | None = None
) -> Iterator[tuple[BrokerChannel, WorkerChannel]]:
    """A connected broker's and worker's end."""
    broker = BrokerChannel.create(slot=3, generation=9, epoch=77, options=options, bodies=bodies)
    try:
        worker = WorkerChannel.attach(worker_argument_of_copies(broker))
        broker.close_worker_ends()
        try:
            yield broker, worker
        finally:
            worker.close()
    finally:
        broker.close()


def claim_each(worker: WorkerChannel, slots: Sequence[int]) -> list[Request]:
    """A request for each of these slots, as so many threads would claim them; they must have been rung for."""
    requests = []
    for slot in slots:
        request = worker.claim(slot)
        assert request is not None
        requests.append(request)
    return requests


def whole(frame: bytes) -> Packed:
    """A frame that nothing travels beside."""
    return frame, None


def start(broker: BrokerChannel, worker: WorkerChannel, seq: int = 1) -> None:
    """Send an empty request, and claim it."""
    broker.send(seq, whole(b""), 0)
    broker.ring()
    worker.claim()


class Rings:
    """One ring on its own: all four mappings, a producer and a consumer of A."""

    def __init__(self, capacity: int = 4096, max_record: int = 512) -> None:
        self.a_writable, self.a_readable = _map_both(Identity(Role.A, 1, 2, 3, capacity, max_record, 65536))
        self.b_writable, self.b_readable = _map_both(Identity(Role.B, 1, 2, 3, capacity, max_record, 65536))
        self.producer = Producer(self.a_writable, self.b_readable)
        self.consumer = Consumer(self.a_readable, self.b_writable, KINDS)

    @property
    def tail(self) -> int:
        """Where the producer is."""
        return int(self.a_writable.words[TAIL])

    def damage(self, position: int, data: bytes) -> None:
        """Overwrite bytes of A's records, as a hostile or broken writer would."""
        start = HEADER_SIZE + position
        self.a_writable.memory[start : start + len(data)] = data

    def close(self) -> None:
        """Unmap everything."""
        for segment in (self.a_writable, self.a_readable, self.b_writable, self.b_readable):
            segment.close()


@contextmanager
def rings(capacity: int = 4096, max_record: int = 512) -> Iterator[Rings]:
    """A `Rings` that is closed."""
    both = Rings(capacity, max_record)
    try:
        yield both
    finally:
        both.close()


def _map_both(identity: Identity) -> tuple[Segment, Segment]:
    descriptors = create_segment(identity)
    try:
        return Segment.map(descriptors.writable, writable=True), Segment.map(descriptors.readable, writable=False)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
