"""Both ends of a channel in one process, for tests that need a worker's answers but no worker."""

import contextlib
import os
from collections.abc import Iterator

from tests.unit.ipc.channel.ends import worker_argument_of_copies
from tykpy.broker.pool.starting import channel_options
from tykpy.broker.router.link import Link
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import Request
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.frame import pack_frame, unpack_frame
from tykpy.ipc.ring.layout import MAX_WAITING, WAITING_SHIFT

MAX_MESSAGE = 1024 * 1024


class LocalWorker:
    """A worker that claims and answers at the test's command."""

    def __init__(
        self,
        slot: int = 0,
        generation: int = 1,
        threads: int = 1,
        bodies: BodyStore | None = None,
        *,
        learns: bool = False,
        pid: int | None = None,
    ) -> None:
        """`pid`: the process whose CPU time stands for the worker's."""
        options = channel_options(threads, MAX_MESSAGE, learns=learns)
        channel = BrokerChannel.create(slot, generation, 1, options, bodies)
        argument = worker_argument_of_copies(channel)
        channel.close_worker_ends()
        self.channel = WorkerChannel.attach(argument)
        self.link = Link(slot, generation, channel, threads, pid or os.getpid(), learns=learns)

    def claim(self, slot: int = 0) -> Request:
        """Claim the next request; blocks until its doorbell rings."""
        request = self.channel.claim(slot)
        assert request is not None
        return request

    def finish(self, request: Request, slot: int = 0, handler_ns: int = 1000, waiting: float | None = None) -> None:
        """Answer a request with its own body; `waiting`: the fraction of its time that it waited."""
        if waiting is not None:
            handler_ns |= 1 + int(waiting * MAX_WAITING) << WAITING_SHIFT
        frame = unpack_frame(request.payload)
        self.channel.answer(slot, request.seq, pack_frame(frame.kind, None, frame.body), False, handler_ns)

    def close(self) -> None:
        """Close both ends."""
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
