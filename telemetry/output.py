"""Writes log records to standard error, and never makes their author wait for the reader.

A record is written at once where the kernel takes it without waiting. Otherwise it goes into a bounded queue that a
thread empties; what does not fit is dropped and counted, and a record says so once the reader goes on.

An author takes no lock that it could wait for: a finalizer or a signal handler may log in the middle of any of this.
Its counters may miss an update where two threads race; they are set right when the queue is empty.
"""

import contextlib
import heapq
import os
import select
import socket
import stat
import threading
import time
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
"""What may wait for the reader."""
MAX_BATCH: Final = select.PIPE_BUF
"""Bytes of records that the thread writes at once: more, and a pipe mixes them with those of other processes."""
REPORT_SECONDS: Final = 1.0
"""While the reader is slow, lost records are reported at most so often."""

Action: TypeAlias = Callable[[], None]

# Plugins may patch these modules.
_monotonic: Final = time.monotonic
_write: Final = os.write


class LogOutput:
    """Standard error of this process. There is one; it lasts as long as the process."""

    def __init__(self, report_loss: Callable[[int, str], bytes]) -> None:
        """`report_loss` makes the record about so many lost ones, and the reason."""
        self._report_loss = report_loss
        self._queue: SimpleQueue[bytes | Action | None] = SimpleQueue()
        self._ahead: list[bytes | Action | None] = []
        """What the thread has taken from the queue too early."""
        self._timers: list[tuple[float, int, Action]] = []
        self._numbers = numbers()
        self._writing = threading.Lock()
        """Held by whoever writes. Authors only try to take it."""
        self._queued = self._done = 0
        """Bytes that were put into the queue, and that are not in it any more."""
        self._lost = self._reported = 0
        """Records."""
        self._why = ""
        self._next_report = 0.0
        self._rest = b""
        """Of a record that an author has written in part. It goes before whatever is in the queue."""
        self._is_torn = False
        """The last record was written in part, and has no rest."""
        self._open()
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        os.register_at_fork(after_in_child=self._after_fork)

    def write(self, record: bytes) -> None:
        """Write one record, now or later, or count it as lost."""
        if not self._writing.acquire(blocking=False):
            self._enqueue(record)
            return
        try:
            self._write_now(record)
        finally:
            self._writing.release()

    def run(self, action: Action) -> None:
        """Run `action` in the writer's thread, after the records that wait now."""
        self._queue.put(action)

    def run_later(self, seconds: float, action: Action) -> None:
        """Run `action` in the writer's thread after `seconds`, or when the log is closed."""
        due = _monotonic() + seconds
        self._queue.put(lambda: heapq.heappush(self._timers, (due, next(self._numbers), action)))

    def redirect(self, descriptor: int) -> None:
        """Make standard output and error this open file; takes the descriptor."""
        with self._writing:
            for standard in (STDOUT, STDERR):
                os.dup2(descriptor, standard, inheritable=True)
            os.close(descriptor)
            if self.dump_descriptor != STDERR:
                os.close(self.dump_descriptor)
            self._open()

    def close(self, patience: float) -> None:
        """Write what waits, for at most `patience` seconds."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(patience)

    def _open(self) -> None:
        self.dump_descriptor = _reopen_nonblocking(STDERR)
        """For what writes without this object: does not wait, where the kernel allows it."""
        self._try_write = _nonblocking_write(self.dump_descriptor)

    def _write_now(self, record: bytes) -> None:
        written = 0
        if self._queued == self._done and self._lost == self._reported and not self._rest:
            # What goes wrong here goes wrong in the thread too, which counts it.
            with contextlib.suppress(OSError):
                written = self._try_write(record)
        if written == 0:
            self._enqueue(record)
        elif written < len(record):
            self._rest = record[written:]
            self._put(b"")

    def _enqueue(self, record: bytes) -> None:
        if self._thread is not None and self._has_no_room():
            self._lose("nobody read them in time")
        else:
            self._put(record)

    def _has_no_room(self) -> bool:
        return self._queue.qsize() >= MAX_RECORDS or self._queued - self._done >= MAX_BYTES

    def _put(self, record: bytes) -> None:
        if self._thread is None:
            self._write_waiting([record])
            return
        self._queued += len(record)
        self._queue.put(record)

    def _lose(self, why: str, records: int = 1) -> None:
        self._lost += records
        self._why = why

    # -- the writer's thread --

    def _run(self) -> None:
        # A signal is for the main thread; where it has its default action it must not find another one.
        pthread_sigmask(SIG_BLOCK, valid_signals())
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
            timeout = max(0.0, self._timers[0][0] - _monotonic()) if self._timers else None
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
        """Return this record and those that follow it and fit into one write."""
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
        """Write records that were put into the queue, and what goes before and after them."""
        rest, self._rest = self._rest, b""
        failure = self._write_all(rest, is_begun=True) if rest else None
        if failure is not None:
            self._lose(str(failure))
        failure = self._write_all(b"".join(records))
        if failure is not None:
            self._lose(str(failure), sum(map(bool, records)))
        elif self._lost != self._reported and (self._is_empty() or _monotonic() >= self._next_report):
            self._report()

    def _report(self) -> None:
        lost = self._lost - self._reported
        if self._write_all(self._report_loss(lost, self._why)) is None:
            self._reported += lost
            self._next_report = _monotonic() + REPORT_SECONDS

    def _write_all(self, record: bytes, *, is_begun: bool = False) -> OSError | None:
        """Write a record, or the rest of one, and wait for the reader; returns why the kernel does not take it."""
        data = memoryview(b"\n" + record if self._is_torn else record)
        size = len(data)
        while data:
            try:
                data = data[_write(STDERR, data) :]
            except BlockingIOError:
                # Another process that has this open file made it non-blocking.
                select.select((), (STDERR,), ())
            except OSError as error:
                self._is_torn |= is_begun or len(data) < size
                return error
        self._is_torn = False
        return None

    # -- a child that a plugin forked --

    def _after_fork(self) -> None:
        # It has no writer's thread, and what waits is the parent's to write.
        self._thread = None
        self._queue, self._ahead = SimpleQueue(), []
        self._writing = threading.Lock()
        self._queued = self._done = self._lost = self._reported = 0
        self._rest = b""


def _reopen_nonblocking(descriptor: int) -> int:
    """Open a pipe or terminal once more, as a file of its own that does not wait; others are returned as they are."""
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return descriptor
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        # It belongs to another user, or nobody reads it any more.
        return descriptor


def _nonblocking_write(descriptor: int) -> Callable[[bytes], int]:
    """Return what writes to the descriptor as much as is possible without waiting: nothing, where that is not known."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISREG(mode) or descriptor != STDERR:
        return partial(_write, descriptor)
    return lambda _data: 0
