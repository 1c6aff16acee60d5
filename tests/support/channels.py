"""Both ends of a channel in one process, for tests that need a worker's answers but no worker."""

import contextlib
import os
from collections.abc import Iterator

from broker.pool.spawning import channel_options
from broker.routing.link import Link
from ipc.bodies import BodyStore
from ipc.channel import BrokerChannel, Request, WorkerChannel
from ipc.frame import pack_frame, unpack_frame
from tests.unit.ipc.ends import worker_argument_of_copies

MAX_MESSAGE = 1024 * 1024


class LocalWorker:
    """A worker that claims and answers when the test says so."""

    def __init__(self, slot: int = 0, generation: int = 1, threads: int = 1, bodies: BodyStore | None = None) -> None:
        channel = BrokerChannel.create(slot, generation, 1, channel_options(threads, MAX_MESSAGE), bodies)
        argument = worker_argument_of_copies(channel)
        channel.close_worker_ends()
        self.channel = WorkerChannel.attach(argument)
        self.link = Link(slot, generation, channel, threads, pid=os.getpid())

    def claim(self, slot: int = 0) -> Request:
        """Start the next request; blocks until one is rung for."""
        request = self.channel.claim(slot)
        assert request is not None
        return request

    def finish(self, request: Request, slot: int = 0, handler_ns: int = 1000) -> None:
        """Answer a request with its own body."""
        frame = unpack_frame(request.payload)
        self.channel.answer(slot, request.seq, pack_frame(frame.kind, None, frame.body), False, handler_ns)

    def close(self) -> None:
        """Give back both ends."""
        self.channel.close()
        self.link.channel.close()


@contextlib.contextmanager
def local_worker(
    slot: int = 0, generation: int = 1, threads: int = 1, bodies: BodyStore | None = None
) -> Iterator[LocalWorker]:
    """A worker that is closed at the end."""
    worker = LocalWorker(slot, generation, threads, bodies)
    try:
        yield worker
    finally:
        worker.close()
