"""Write log records to standard error without making the caller wait for the reader.

A record is written immediately if the kernel accepts it without blocking. Otherwise it goes into a bounded queue that
a thread drains; records that do not fit are dropped and counted, and a record reports the loss once the reader catches
up.

Callers take no lock that they could block on: a finalizer or a signal handler may log in the middle of any of this.
The counters may miss an update when two threads race; they are corrected when the queue is empty.
"""

import contextlib
import heapq
import os
import select
import socket
import stat
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable
from functools import partial
from itertools import count as numbers
from queue import Empty, SimpleQueue
from signal import SIG_BLOCK, pthread_sigmask, valid_signals
from typing import Final, TypeAlias

STDOUT: Final = 1
STDERR: Final = 2
MAX_RECORDS: Final = 10_000
MAX_BYTES: Final = 2 * 1024 * 1024
"""Most records, and most bytes, in the queue."""
MAX_BATCH: Final = select.PIPE_BUF
"""Most bytes of records in one write: a pipe may interleave larger writes with those of other processes."""
REPORT_SECONDS: Final = 1.0
"""Shortest time between two reports of lost records while the reader is slow."""

Action: TypeAlias = Callable[[], None]

# Plugins may patch these modules.
_write: Final = os.write
_poll: Final = select.poll


class LogOutput:
    """Writer for the standard error of this process. There is one, which lives as long as the process."""

    def __init__(self, report_loss: Callable[[int, str], bytes]) -> None:
        """Start the writer thread; `report_loss` makes the record of so many lost ones and the reason."""
        self._report_loss = report_loss
        self._monotonic = time.monotonic
        """No name of the module: libraries that freeze time replace those (freezegun)."""
        self._queue: SimpleQueue[bytes | Action | None] = SimpleQueue()
        self._ahead: list[bytes | Action | None] = []
        """Item that the thread took from the queue but could not add to a batch; it is handled next."""
        self._timers: list[tuple[float, int, Action]] = []
        self._numbers = numbers()
        self._writing = threading.Lock()
        """Held by the thread that writes. Callers only try to acquire it and never block."""
        self._queued = self._done = 0
        """Total bytes put into the queue, and total bytes that have left it."""
        self._lost = self._reported = 0
        """Records lost so far, and those of them that were reported."""
        self.when_lost: Callable[[int], object] = lambda _total: None
        """Called with the number of records lost so far, when it has changed."""
        self._why = ""
        self._next_report = 0.0
        self._rest = b""
        """Remainder of a record that a caller wrote in part. It is written before anything in the queue."""
        self._is_torn = False
        """Whether the last record was written in part and its remainder is lost."""
        self._open()
        self._has_thread = True
        self._running = threading.Lock()
        """Held by the thread as long as it runs."""
        self._running.acquire()
        # `threading` may be another when the thread ends (gevent.monkey).
        start_new_thread(self._run, ())
        os.register_at_fork(after_in_child=self._after_fork)

    def write(self, record: bytes) -> None:
        """Write one record or queue it; count it as lost if the queue is full."""
        if not self._writing.acquire(blocking=False):
            self._enqueue(record)
            return
        try:
            self._write_now(record)
        finally:
            self._writing.release()

    @property
    def lost(self) -> int:
        """Records lost so far."""
        return self._lost

    def run(self, action: Action) -> None:
        """Run `action` in the writer thread, after the records queued so far."""
        self._queue.put(action)

    def run_later(self, seconds: float, action: Action) -> None:
        """Run `action` in the writer's thread after `seconds`, or when the log is closed."""
        due = self._monotonic() + seconds
        self._queue.put(lambda: heapq.heappush(self._timers, (due, next(self._numbers), action)))

    def redirect(self, descriptor: int) -> None:
        """Redirect standard output and standard error to an open file; takes ownership of the descriptor."""
        with self._writing:
            for standard in (STDOUT, STDERR):
                os.dup2(descriptor, standard, inheritable=True)
            for old in {descriptor, self._descriptor, self.dump_descriptor}:
                os.close(old)
            self._open()

    def restore_streams(self) -> None:
        """Open standard output and standard error again if plugin code has closed them."""
        for standard in (STDOUT, STDERR):
            try:
                os.fstat(standard)
            except OSError:
                os.dup2(self._descriptor, standard, inheritable=True)

    def close(self, patience: float) -> None:
        """Write the queued records, for at most `patience` seconds."""
        self._queue.put(None)
        if self._has_thread and self._running.acquire(timeout=patience):
            self._running.release()

    def _open(self) -> None:
        # Plugin code may close descriptor 2, and the next file that is opened gets that number.
        self._descriptor = os.dup(STDERR)
        self.dump_descriptor = _reopen_nonblocking(self._descriptor)
        """Descriptor for code that writes without this object; non-blocking where the kernel allows it."""
        self._try_write = _nonblocking_write(self.dump_descriptor, is_reopened=self.dump_descriptor != self._descriptor)

    def _write_now(self, record: bytes) -> None:
        written = 0
        if self._queued == self._done and self._lost == self._reported and not self._rest:
            # Ignore errors: the thread gets the same error, and counts the record as lost.
            with contextlib.suppress(OSError):
                written = self._try_write(record)
        if written == 0:
            self._enqueue(record)
        elif written < len(record):
            self._rest = record[written:]
            self._put(b"")

    def _enqueue(self, record: bytes) -> None:
        if self._has_thread and self._has_no_room():
            self._lose("nobody read them in time")
        else:
            self._put(record)

    def _has_no_room(self) -> bool:
        return self._queue.qsize() >= MAX_RECORDS or self._queued - self._done >= MAX_BYTES

    def _put(self, record: bytes) -> None:
        if not self._has_thread:
            self._write_waiting([record])
            return
        self._queued += len(record)
        self._queue.put(record)

    def _lose(self, why: str, records: int = 1) -> None:
        self._lost += records
        self._why = why
        self.when_lost(self._lost)

    # -- the writer's thread --

    def _run(self) -> None:
        # Signals are for the main thread; one with its default action must not be delivered to this thread.
        pthread_sigmask(SIG_BLOCK, valid_signals())
        threading.current_thread().name = "log"
        try:
            self._write_all_queued()
        finally:
            self._running.release()

    def _write_all_queued(self) -> None:
        while (item := self._next()) is not None:
            self._handle(item)
        while self._timers:
            self._handle(heapq.heappop(self._timers)[-1])
        while not self._is_empty():
            if (item := self._next()) is not None:
                self._handle(item)
        if self._lost != self._reported:
            self._report()

    def _is_empty(self) -> bool:
        return not self._ahead and self._queue.empty()

    def _next(self) -> bytes | Action | None:
        if self._ahead:
            return self._ahead.pop()
        try:
            timeout = max(0.0, self._timers[0][0] - self._monotonic()) if self._timers else None
            return self._queue.get(timeout=timeout)
        except Empty:
            return heapq.heappop(self._timers)[-1]

    def _handle(self, item: bytes | Action) -> None:
        if not isinstance(item, bytes):
            self._act(item)
            return
        records = self._batch(item)
        with self._writing:
            self._write_waiting(records)
        self._done += sum(map(len, records))
        if self._is_empty():
            self._done = self._queued

    def _act(self, action: Action) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 (the thread goes on; the next report says so)
            self._lose(f"{type(error).__name__}: {error}")

    def _batch(self, record: bytes) -> list[bytes]:
        """Return `record` and the queued records that fit into the same write."""
        records, size = [record], len(record)
        while size < MAX_BATCH and not self._is_empty():
            item = self._next()
            if not isinstance(item, bytes) or size + len(item) > MAX_BATCH:
                self._ahead.append(item)
                break
            records.append(item)
            size += len(item)
        return records

    def _write_waiting(self, records: list[bytes]) -> None:
        """Write queued records, after the remainder of a partly written one and before a report of losses, if due."""
        rest, self._rest = self._rest, b""
        failure = self._write_all(rest, is_begun=True) if rest else None
        if failure is not None:
            self._lose(str(failure))
        failure = self._write_all(b"".join(records))
        if failure is not None:
            self._lose(str(failure), sum(map(bool, records)))
        elif self._lost != self._reported and (self._is_empty() or self._monotonic() >= self._next_report):
            self._report()

    def _report(self) -> None:
        lost = self._lost - self._reported
        if self._write_all(self._report_loss(lost, self._why)) is None:
            self._reported += lost
            self._next_report = self._monotonic() + REPORT_SECONDS

    def _write_all(self, record: bytes, *, is_begun: bool = False) -> OSError | None:
        """Write a record, or the rest of one (`is_begun`), waiting for the reader; return its error, if any."""
        data = memoryview(b"\n" + record if self._is_torn else record)
        size = len(data)
        while data:
            try:
                data = data[_write(self._descriptor, data) :]
            except BlockingIOError:
                # Another process that shares this open file made it non-blocking.
                _wait_for_reader(self._descriptor)
            except OSError as error:
                self._is_torn |= is_begun or len(data) < size
                return error
        self._is_torn = False
        return None

    # -- a child that a plugin forked --

    def _after_fork(self) -> None:
        # The child has no writer thread, and the parent writes the queued records. The standard streams are the
        # child's own now: it may redirect them, and close all other descriptors.
        self._has_thread = False
        self._descriptor, self._try_write = STDERR, _write_nothing
        self._queue, self._ahead = SimpleQueue(), []
        self._writing = threading.Lock()
        self._queued = self._done = self._lost = self._reported = 0
        self.when_lost = lambda _total: None
        self._rest = b""


def _reopen_nonblocking(descriptor: int) -> int:
    """Reopen a pipe or terminal as a separate, non-blocking open file; return other descriptors unchanged."""
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return descriptor
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        # The file belongs to another user, or the pipe has no reader any more.
        return descriptor


def _nonblocking_write(descriptor: int, *, is_reopened: bool) -> Callable[[bytes], int]:
    """Return a function that writes as much as possible without blocking; nothing, if that amount is unknown."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISREG(mode) or is_reopened:
        return partial(_write, descriptor)
    return _write_nothing


def _wait_for_reader(descriptor: int) -> None:
    poll = _poll()  # select() cannot wait for descriptors above 1,023
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def _write_nothing(_data: bytes) -> int:
    return 0
