"""The threads that run hooks. One of them leads: only the leader claims requests.

The leader keeps the lead while it runs a hook, so short hooks cost no hand-over. If the broker says that a hook shares
its worker, the leader first hands the lead to a parked thread or to a new one. A thread that has run a hook without the
lead takes it if it is vacant, and parks otherwise. Threads are started on demand and never end before the worker does.
"""

from collections.abc import Callable, Iterable
from queue import SimpleQueue
from threading import Lock
from typing import Final

from tykpy.workers.process.guard import start_thread

FIRST: Final = 0
"""The slot of the main thread, the first leader."""


class HookThreads:
    """Up to `most` threads, each in a slot of its own; a slot is also an execution slot of the channel."""

    def __init__(self, most: int, serve: Callable[[int], None], show: Callable[[int], None]) -> None:
        """A new thread runs `serve` with its slot, as the leader. `show` is given the number of started threads."""
        self._most = most
        self._serve = serve
        self._show = show
        self._lock = Lock()
        self._gates = [Lock() for _ in range(most)]
        """By slot: the lock that a parked thread waits for."""
        for gate in self._gates:
            gate.acquire()
        self._parked: list[int] = []
        """Slots of parked threads. The last one is used first: its stack is in the CPU's cache."""
        self._is_vacant = False
        """Whether no thread leads: all of them run hooks."""
        self._is_over = False
        self._started = 1
        self._ended: SimpleQueue[None] = SimpleQueue()
        self.leading: dict[int, bool] = {}
        """The sequence number of the request that the leader runs; the thread that removes it leads next."""
        show(1)

    @property
    def busy(self) -> int:
        """Number of threads that run hooks, at least 1: of those that are not parked, one waits for requests."""
        return max(self._started - len(self._parked) - 1, 1)

    def hand_over(self) -> None:
        """Let another thread lead; called by the leader."""
        with self._lock:
            if self._parked:
                self._gates[self._parked.pop()].release()
            else:
                self._is_vacant = not (self._started < self._most and self._start())

    def relieve(self, seqs: Iterable[int]) -> None:
        """Let another thread lead if the leader runs one of these requests, which wait for something."""
        for seq in seqs:
            if self.leading.pop(seq, False):
                self.hand_over()

    def rejoin(self, slot: int) -> bool:
        """Wait for the lead after running a hook. Return False if there are no more requests."""
        with self._lock:
            if self._is_vacant or self._is_over:
                self._is_vacant = False
                return not self._is_over
            self._parked.append(slot)
        self._gates[slot].acquire()
        return not self._is_over

    def end(self) -> None:
        """End all threads as soon as they have run their hooks. Called by the leader if there are no more requests."""
        with self._lock:
            self._is_over = True
            while self._parked:
                self._gates[self._parked.pop()].release()

    def join(self) -> None:
        """Wait until all other threads have ended. Called by the main thread."""
        for _ in range(self._started - 1):
            self._ended.get()

    def _start(self) -> bool:
        try:
            start_thread(f"hooks-{self._started}", self._run, self._started)
        except (RuntimeError, MemoryError):  # out of memory or processes: go on with the threads that have been started
            return False
        self._started += 1
        self._show(self._started)
        return True

    def _run(self, slot: int) -> None:
        self._serve(slot)
        self._ended.put(None)
