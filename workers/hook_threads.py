"""The threads that run hooks: one of them leads, and is the only one that claims requests.

The leader keeps the lead while it runs a hook, so that short hooks cost no hand-over. Where the broker says that a hook
shares its worker, it hands the lead to a parked thread or to a new one first. A thread that has run a hook without the
lead takes it if nobody has it, and parks otherwise. Threads are started when they are needed, and stay.
"""

from collections.abc import Callable, Iterable
from queue import SimpleQueue
from threading import Lock
from typing import Final

from tykpy.workers.process.guard import start_late_thread

FIRST: Final = 0
"""The slot of the main thread, which leads at first."""


class HookThreads:
    """Up to `most` threads, each in a slot of its own; a slot is also an execution slot of the channel."""

    def __init__(self, most: int, serve: Callable[[int], None], show: Callable[[int], None]) -> None:
        """`serve`: what a new thread runs, as the leader. `show`: hears how many have been started."""
        self._most = most
        self._serve = serve
        self._show = show
        self._lock = Lock()
        self._gates = [Lock() for _ in range(most)]
        """What a parked thread waits for, by slot."""
        for gate in self._gates:
            gate.acquire()
        self._parked: list[int] = []
        """Slots, the last one parked at the end: its stack is warm."""
        self._is_vacant = False
        """Nobody leads: all threads run hooks."""
        self._is_over = False
        self._started = 1
        self._ended: SimpleQueue[None] = SimpleQueue()
        self.kept: dict[int, bool] = {}
        """The sequence number of what the leader runs while it keeps the lead; who takes it out has the lead."""
        show(1)

    @property
    def busy(self) -> int:
        """Threads that run hooks, at least 1; one that neither does nor is parked waits for requests."""
        return max(self._started - len(self._parked) - 1, 1)

    def hand_over(self) -> None:
        """Let another thread lead; called by the leader."""
        with self._lock:
            if self._parked:
                self._gates[self._parked.pop()].release()
            else:
                self._is_vacant = not (self._started < self._most and self._start())

    def relieve(self, seqs: Iterable[int]) -> None:
        """Let another thread lead where the leader runs one of these requests: it waits."""
        for seq in seqs:
            if self.kept.pop(seq, False):
                self.hand_over()

    def rejoin(self, slot: int) -> bool:
        """Wait for the lead; False when there are no more requests. Called by a thread that has run a hook."""
        with self._lock:
            if self._is_vacant or self._is_over:
                self._is_vacant = False
                return not self._is_over
            self._parked.append(slot)
        self._gates[slot].acquire()
        return not self._is_over

    def end(self) -> None:
        """There are no more requests: all threads end when they have run what they run. Called by the leader."""
        with self._lock:
            self._is_over = True
            while self._parked:
                self._gates[self._parked.pop()].release()

    def join(self) -> None:
        """Wait for the end of all but the main thread, which calls this."""
        for _ in range(self._started - 1):
            self._ended.get()

    def _start(self) -> bool:
        try:
            start_late_thread(f"hooks-{self._started}", self._run, self._started)
        except (RuntimeError, MemoryError):  # no memory or processes left: the threads that there are do the work
            return False
        self._started += 1
        self._show(self._started)
        return True

    def _run(self, slot: int) -> None:
        self._serve(slot)
        self._ended.put(None)
