"""What the ring alone costs: messages of a dispatch's size, sent to another process and back as broker and worker do.

It is measured beside the dispatches, not within them: the CPU that a ring of its own needs for the same messages, one
claim and one answer at a time.
"""

import select
import signal
import sys
import time
from itertools import count, islice
from typing import Final, NamedTuple

from tykpy.bench.errors import BenchError
from tykpy.bench.measure import NS_PER_US, cpu_ns
from tykpy.commands.bound import spawn
from tykpy.ipc.bodies.store import StoredBody
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import ChannelOptions
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.errors import IpcError
from tykpy.ipc.frame import SPLIT_ABOVE

SECONDS: Final = 0.15
"""Duration of the round trips."""
WINDOW: Final = 8
"""Messages in flight."""
LARGE: Final = 32 * 1024
LARGE_WINDOW: Final = 2
"""Messages in flight if they are larger than LARGE bytes."""
PATIENCE_MS: Final = 10_000
_NO_HEAD: Final = b""


class RingCost(NamedTuple):
    """CPU microseconds per dispatch."""

    broker: float
    worker: float


def measure_ring(size: int) -> RingCost:
    """Measure round trips of messages of `size` bytes; raises BenchError."""
    channel = BrokerChannel.create(slot=0, generation=1, epoch=1, options=ChannelOptions())
    try:
        with spawn("tykpy.bench.ringcost", channel.worker_argument(), pass_fds=channel.worker_fds) as worker:
            channel.close_worker_ends()
            try:
                return _round_trips(channel, worker.pid, b"\xff" * size)
            finally:
                channel.close()  # the worker's end of file
    except IpcError as error:
        raise BenchError(f"the ring alone cannot be measured: {error}") from error
    finally:
        channel.close()


def _round_trips(channel: BrokerChannel, pid: int, payload: bytes) -> RingCost:
    window = WINDOW if len(payload) <= LARGE else LARGE_WINDOW
    stored: dict[int, StoredBody] = {}  # bodies that must stay until they are answered
    seqs = count(1)
    answered = select.poll()
    answered.register(channel.answers_fd, select.POLLIN)

    def send(number: int) -> None:
        for seq in islice(seqs, number):
            # As the router does: a big body is put where workers read it, beside its record.
            body = channel.bodies.put(payload) if len(payload) > SPLIT_ABOVE else None
            if body is not None:
                stored[seq] = body
            channel.send(seq, (payload, None) if body is None else (_NO_HEAD, body), 0)
        channel.ring()

    def receive() -> int:
        if not answered.poll(PATIENCE_MS):
            raise BenchError("the ring alone cannot be measured: its worker does not answer")
        answers = channel.receive()
        for answer in answers:
            stored.pop(answer.seq, None)
        return len(answers)

    send(window)
    send(receive())  # the worker has started
    theirs, ours = cpu_ns([pid])[pid], time.thread_time_ns()
    done, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end or not done:
        done += (number := receive())
        send(number)
    ours, theirs = time.thread_time_ns() - ours, cpu_ns([pid])[pid] - theirs
    return RingCost(ours / done / NS_PER_US, theirs / done / NS_PER_US)


def main() -> None:
    """Claim and answer each request as workers do, until the broker's end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of us; the parent decides
    channel = WorkerChannel.attach(sys.argv[1])
    while (request := channel.claim()) is not None:
        channel.answer(0, request.seq, request.payload, False, 1)
