"""At any time one thread leads, or none if all are busy."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from tests.support.broker import wait_until
from tykpy.workers import hook_threads
from tykpy.workers.hook_threads import FIRST, HookThreads


class Order(NamedTuple):
    """A request: its number, whether its hook shares the worker, and when it ends."""

    seq: int
    shares: bool
    done: threading.Event


class Crew:
    """Hook threads that claim orders instead of requests, and record which thread claimed which."""

    def __init__(self, most: int) -> None:
        self.orders: SimpleQueue[Order | None] = SimpleQueue()
        self.claims: list[tuple[int, int]] = []
        """Slot and number."""
        self.answered: list[int] = []
        self.started: list[int] = []
        self._claiming = threading.Lock()
        self.threads = HookThreads(most, self._serve, self.started.append)
        self._main = threading.Thread(target=self._run)
        self._main.start()

    def give(self, seq: int, *, shares: bool) -> Order:
        """Let a thread claim an order, which runs until `finish`."""
        order = Order(seq, shares, threading.Event())
        self.orders.put(order)
        return order

    def finish(self, order: Order) -> None:
        """End an order, and wait until its thread has answered."""
        order.done.set()
        self.wait(lambda: order.seq in self.answered)

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, lambda: f"claims {self.claims}, answered {self.answered}")

    def wait_claimed(self, *seqs: int) -> None:
        self.wait(lambda: [seq for _, seq in self.claims] == list(seqs))

    def end(self) -> None:
        """Announce the end of orders, and wait for all threads."""
        self.orders.put(None)
        self.join()

    def join(self) -> None:
        """Wait for all threads, and make `threading` forget those that it has not started."""
        self._main.join()
        for thread in threading.enumerate():
            if thread.name.startswith("hooks-"):
                threading._active.pop(thread.ident)  # type: ignore[attr-defined]

    def _run(self) -> None:
        self._serve(FIRST)
        self.threads.join()

    def _serve(self, slot: int) -> None:
        while (order := self._claim()) is not None:
            self.threads.leading[order.seq] = True
            self.claims.append((slot, order.seq))
            if order.shares and self.threads.leading.pop(order.seq, False):
                self.threads.hand_over()
            order.done.wait()
            self.answered.append(order.seq)
            if not (self.threads.leading.pop(order.seq, False) or self.threads.rejoin(slot)):
                return
        self.threads.end()

    def _claim(self) -> Order | None:
        assert self._claiming.acquire(blocking=False), "two threads lead"
        try:
            return self.orders.get()
        finally:
            self._claiming.release()


def test_unshared_hooks_run_in_the_first_thread() -> None:
    crew = Crew(4)
    for seq in range(1, 20):
        crew.finish(crew.give(seq, shares=False))
    assert (set(crew.claims), crew.started) == ({(FIRST, seq) for seq in range(1, 20)}, [1])
    crew.end()


def test_threads_are_started_on_demand_up_to_the_limit() -> None:
    crew = Crew(3)
    orders = [crew.give(seq, shares=True) for seq in range(1, 5)]
    crew.wait_claimed(1, 2, 3)
    assert crew.started == [1, 2, 3]
    crew.finish(orders[1])
    crew.wait_claimed(1, 2, 3, 4)
    assert crew.claims[3][0] == crew.claims[1][0]
    for order in (orders[0], orders[2], orders[3]):
        order.done.set()
    crew.end()
    assert crew.started == [1, 2, 3]


def test_the_last_parked_thread_is_used_first() -> None:
    crew = Crew(4)
    orders = [crew.give(seq, shares=True) for seq in (1, 2)]
    crew.wait_claimed(1, 2)
    for order in orders:
        crew.finish(order)
    crew.wait(lambda: crew.threads.busy == 1)
    crew.wait(lambda: len(crew.threads._parked) == 2)
    last = crew.threads._parked[-1]
    following = [crew.give(seq, shares=True) for seq in (3, 4)]
    crew.wait_claimed(1, 2, 3, 4)
    assert crew.claims[3][0] == last
    assert crew.started == [1, 2, 3]
    for order in following:
        order.done.set()
    crew.end()


def test_a_waiting_leader_is_relieved() -> None:
    crew = Crew(2)
    slow = crew.give(1, shares=False)
    crew.wait_claimed(1)
    crew.threads.relieve([7, 1])
    quick = crew.give(2, shares=False)
    crew.wait_claimed(1, 2)
    crew.finish(quick)
    crew.finish(slow)
    crew.end()


def test_a_leader_that_has_moved_on_is_not_relieved() -> None:
    crew = Crew(2)
    order = crew.give(2, shares=False)
    crew.wait_claimed(2)
    crew.threads.relieve([1])
    crew.give(3, shares=False).done.set()
    crew.finish(order)
    crew.wait_claimed(2, 3)
    assert crew.started == [1]
    crew.end()


def test_all_threads_end_after_their_hooks() -> None:
    crew = Crew(3)
    orders = [crew.give(seq, shares=True) for seq in (1, 2)]
    crew.wait_claimed(1, 2)
    crew.orders.put(None)
    crew.wait(lambda: crew.threads._is_over)
    for order in orders:
        order.done.set()
    crew.join()
    assert sorted(crew.answered) == [1, 2]


def test_the_started_threads_go_on_if_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(hook_threads, "start_thread", fail)
    crew = Crew(3)
    orders = [crew.give(seq, shares=True) for seq in (1, 2)]
    crew.wait_claimed(1)
    crew.finish(orders[0])
    crew.finish(orders[1])
    assert crew.started == [1]
    crew.end()
