"""What the ring alone costs: messages of a dispatch's size sent to another process and back, as broker and worker do.

It is measured beside the dispatches, not inside of them: a share of broker's and worker's CPU that a ring of its own
needs for the same messages, one claim and one answer at a time.
"""

import select
import signal
import subprocess
import sys
import time
from typing import Final, NamedTuple

from tykpy.bench.bound import spawn
from tykpy.bench.errors import BenchError
from tykpy.bench.measure import cpu_ns
from tykpy.ipc.bodies.store import StoredBody
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import ChannelOptions
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.errors import IpcError
from tykpy.ipc.frame import SPLIT_ABOVE

SECONDS: Final = 0.15
"""Of round trips."""
WINDOW: Final = 8
"""Messages in flight."""
LARGE: Final = 32 * 1024
LARGE_WINDOW: Final = 2
"""The same for messages above LARGE bytes."""
PATIENCE_MS: Final = 10_000
STOP_SECONDS: Final = 10.0
NS_PER_US: Final = 1000
_NO_HEAD: Final = b""


class RingCost(NamedTuple):
    """CPU microseconds per dispatch."""

    broker: float
    worker: float


def measure_ring(size: int) -> RingCost:
    """Round trips of messages of `size` bytes; raises BenchError."""
    channel = BrokerChannel.create(slot=0, generation=1, epoch=1, options=ChannelOptions())
    try:
        with spawn("tykpy.bench.ringcost", channel.worker_argument(), pass_fds=channel.worker_fds) as worker:
            channel.close_worker_ends()
            try:
                return _round_trips(channel, worker.pid, b"\xff" * size)
            finally:
                channel.close()  # the worker's end of file
                _end(worker)
    except IpcError as error:
        raise BenchError(f"the ring alone cannot be measured: {error}") from error
    finally:
        channel.close()


def _end(worker: subprocess.Popen[bytes]) -> None:
    try:
        worker.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()


def _round_trips(channel: BrokerChannel, pid: int, payload: bytes) -> RingCost:
    window = WINDOW if len(payload) <= LARGE else LARGE_WINDOW
    exchange = _Exchange(channel, payload)
    exchange.send(window)
    exchange.send(exchange.receive())  # the worker has started
    theirs, ours = cpu_ns([pid])[pid], time.thread_time_ns()
    done, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end or not done:
        done += (count := exchange.receive())
        exchange.send(count)
    ours, theirs = time.thread_time_ns() - ours, cpu_ns([pid])[pid] - theirs
    return RingCost(ours / done / NS_PER_US, theirs / done / NS_PER_US)


class _Exchange:
    """The broker's side."""

    def __init__(self, channel: BrokerChannel, payload: bytes) -> None:
        self._channel = channel
        self._payload = payload
        self._seq = 0
        self._stored: dict[int, StoredBody] = {}
        """Big bodies that have not been answered."""
        self._poll = select.poll()
        self._poll.register(channel.answers_fd, select.POLLIN)

    def send(self, count: int) -> None:
        """So many messages, and one doorbell."""
        for _ in range(count):
            self._seq += 1
            self._send_one(self._seq)
        self._channel.ring()

    def _send_one(self, seq: int) -> None:
        # As the router does: a big body is put where workers read it, beside its record.
        stored = self._channel.bodies.put(self._payload) if len(self._payload) > SPLIT_ABOVE else None
        if stored is None:
            self._channel.send(seq, (self._payload, None), 0)
        else:
            self._channel.send(seq, (_NO_HEAD, stored), 0)
            self._stored[seq] = stored

    def receive(self) -> int:
        """Wait for answers; gives how many came."""
        if not self._poll.poll(PATIENCE_MS):
            raise BenchError("the ring alone cannot be measured: its worker does not answer")
        answers = self._channel.receive()
        for answer in answers:
            self._stored.pop(answer.seq, None)
        return len(answers)


def echo(argument: str) -> None:
    """The worker's side, until the broker's is closed."""
    channel = WorkerChannel.attach(argument)
    while (request := channel.claim()) is not None:
        channel.answer(0, request.seq, request.payload, False, 1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    echo(sys.argv[1])
