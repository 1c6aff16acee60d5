"""The transports of `benchmarks.ring` with their echo processes, each used in its best pipelined way.

Every transport keeps `WINDOW` messages in flight to another process that sends each of them back. What can be
done in batches is; no transport checks what it carries, except tykpy's channel, which always does.
"""

import multiprocessing
import select
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from typing import Any, Final

import faster_fifo
import zmq

from tykpy.commands.bound import spawn
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import ChannelOptions

WINDOW: Final = 64
"""Messages in flight."""
_SPAWN: Final = multiprocessing.get_context("spawn")
_STOP: Final = b""
_FIFO_BYTES: Final = 1 << 20
_JOIN_SECONDS: Final = 10.0
_WAIT_SECONDS: Final = 3600.0
"""faster-fifo's queues cannot wait forever."""


class Transport(ABC):
    """One transport with its echo process running."""

    name: str
    pid: int
    """The echo process."""

    @abstractmethod
    def round_trips(self, count: int, payload: bytes) -> None:
        """Send `count` messages and take their echoes; at least `WINDOW`."""

    @abstractmethod
    def close(self) -> None:
        """End the echo process."""


class ChannelTransport(Transport):
    """tykpy's channel as broker and worker use it, all checks included."""

    name = "tykpy channel"

    def __init__(self) -> None:
        options = ChannelOptions(max_record=8192)
        self._channel = BrokerChannel.create(slot=0, generation=1, epoch=1, options=options)
        self._process = spawn(
            "tykpy.bench.ringcost", self._channel.worker_argument(), pass_fds=self._channel.worker_fds
        )
        self.pid = self._process.pid
        self._channel.close_worker_ends()
        self._seq = 1
        self._poll = select.poll()
        self._poll.register(self._channel.answers_fd, select.POLLIN)

    def round_trips(self, count: int, payload: bytes) -> None:
        wait, send = self._poll.poll, self._channel.send
        ring, receive = self._channel.ring, self._channel.receive
        next_seq, end = self._seq, self._seq + count
        missing, batch, packed = count, WINDOW, (payload, None)
        while missing:
            first, next_seq = next_seq, min(next_seq + batch, end)
            for seq in range(first, next_seq):
                send(seq, packed, 0)
            ring()
            wait()
            batch = len(receive())
            missing -= batch
        self._seq = end

    def close(self) -> None:
        self._channel.close()
        self._process.wait(_JOIN_SECONDS)


def _one_by_one(send: Callable[[bytes], Any], receive: Callable[[], Any], count: int, payload: bytes) -> None:
    """Keep `WINDOW` messages in flight over a transport without batches."""
    for _ in range(WINDOW):
        send(payload)
    for _ in range(count - WINDOW):
        receive()
        send(payload)
    for _ in range(WINDOW):
        receive()


class PipeTransport(Transport):
    """multiprocessing.Pipe (a Unix socket) carrying bytes."""

    name = "multiprocessing.Pipe"

    def __init__(self) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=echo_pipe, args=(theirs,))
        self._process.start()
        self.pid = self._process.pid or 0
        theirs.close()

    def round_trips(self, count: int, payload: bytes) -> None:
        _one_by_one(self._connection.send_bytes, self._connection.recv_bytes, count, payload)

    def close(self) -> None:
        self._connection.send_bytes(_STOP)
        self._process.join(_JOIN_SECONDS)
        self._connection.close()


def echo_pipe(connection: "Connection[Any, Any]") -> None:
    """Send every message back until an empty one comes."""
    while message := connection.recv_bytes():
        connection.send_bytes(message)


class QueueTransport(Transport):
    """Two multiprocessing.Queues."""

    name = "multiprocessing.Queue"

    def __init__(self) -> None:
        self._there: Queue[bytes] = _SPAWN.Queue()
        self._back: Queue[bytes] = _SPAWN.Queue()
        self._process = _SPAWN.Process(target=echo_queue, args=(self._there, self._back))
        self._process.start()
        self.pid = self._process.pid or 0

    def round_trips(self, count: int, payload: bytes) -> None:
        _one_by_one(self._there.put, self._back.get, count, payload)

    def close(self) -> None:
        self._there.put(_STOP)
        self._process.join(_JOIN_SECONDS)


def echo_queue(there: "Queue[bytes]", back: "Queue[bytes]") -> None:
    """Send every message back until an empty one comes."""
    while message := there.get():
        back.put(message)


class ZmqTransport(Transport):
    """ZeroMQ PAIR sockets over ipc://."""

    name = "pyzmq ipc"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tykpy-bench-")
        address = f"ipc://{self._folder.name}/socket"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.bind(address)
        self._process = _SPAWN.Process(target=echo_zmq, args=(address,))
        self._process.start()
        self.pid = self._process.pid or 0

    def round_trips(self, count: int, payload: bytes) -> None:
        _one_by_one(self._socket.send, self._socket.recv, count, payload)

    def close(self) -> None:
        self._socket.send(_STOP)
        self._process.join(_JOIN_SECONDS)
        self._socket.close()
        self._context.term()
        self._folder.cleanup()


def echo_zmq(address: str) -> None:
    """Send every message back until an empty one comes."""
    context = zmq.Context()
    with context.socket(zmq.PAIR) as sock:
        sock.connect(address)
        while message := sock.recv():
            sock.send(message)
    context.term()


class FasterFifoTransport(Transport):
    """Two faster-fifo queues, bytes put and taken in batches."""

    name = "faster-fifo"

    def __init__(self) -> None:
        self._there = _fifo()
        self._back = _fifo()
        self._process = _SPAWN.Process(target=echo_fifo, args=(self._there, self._back))
        self._process.start()
        self.pid = self._process.pid or 0

    def round_trips(self, count: int, payload: bytes) -> None:
        sent = received = 0
        batch = WINDOW
        while received < count:
            batch = min(batch, count - sent)
            if batch:
                self._there.put_many([payload] * batch)
                sent += batch
            batch = len(self._back.get_many(timeout=_WAIT_SECONDS, max_messages_to_get=WINDOW))
            received += batch

    def close(self) -> None:
        self._there.put(_STOP)
        self._process.join(_JOIN_SECONDS)


def _fifo() -> Any:
    return faster_fifo.Queue(max_size_bytes=_FIFO_BYTES, loads=bytes, dumps=bytes)


def echo_fifo(there: Any, back: Any) -> None:
    """Send every message back until an empty one comes."""
    while True:
        messages = there.get_many(timeout=_WAIT_SECONDS, max_messages_to_get=WINDOW)
        if _STOP in messages:
            return
        back.put_many(messages)


TRANSPORTS: Final[tuple[type[Transport], ...]] = (
    ChannelTransport,
    ZmqTransport,
    PipeTransport,
    FasterFifoTransport,
    QueueTransport,
)
