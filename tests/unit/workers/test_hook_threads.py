"""Who leads: exactly one thread at any time, or none where all are busy."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from tests.support.broker import wait_until
from tykpy.workers import hook_threads
from tykpy.workers.hook_threads import FIRST, HookThreads


class Order(NamedTuple):
    """A request: its number, whether its hook shares the worker, and until when it runs."""

    seq: int
    shares: bool
    done: threading.Event


class Crew:
    """Hook threads that take orders instead of requests, and note who claimed what."""

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
        """Have an order claimed, which runs until it is done."""
        order = Order(seq, shares, threading.Event())
        self.orders.put(order)
        return order

    def finish(self, order: Order) -> None:
        """Have an order end, and wait until its thread has answered."""
        order.done.set()
        self.wait(lambda: order.seq in self.answered)

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, lambda: f"claims {self.claims}, answered {self.answered}")

    def wait_claimed(self, *seqs: int) -> None:
        self.wait(lambda: [seq for _, seq in self.claims] == list(seqs))

    def end(self) -> None:
        """Say that there are no more, and wait for all threads."""
        self.orders.put(None)
        self.join()

    def join(self) -> None:
        """Wait for all threads, and have `threading` forget those that it has not started."""
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


def test_hooks_that_do_not_share_all_run_in_the_first_thread() -> None:
    crew = Crew(4)
    for seq in range(1, 20):
        crew.finish(crew.give(seq, shares=False))
    assert (set(crew.claims), crew.started) == ({(FIRST, seq) for seq in range(1, 20)}, [1])
    crew.end()


def test_threads_are_started_as_they_are_needed_and_no_more_than_there_may_be() -> None:
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


def test_the_last_one_parked_is_the_first_one_used() -> None:
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


def test_a_leader_that_waits_is_relieved() -> None:
    crew = Crew(2)
    slow = crew.give(1, shares=False)
    crew.wait_claimed(1)
    crew.threads.relieve([7, 1])
    quick = crew.give(2, shares=False)
    crew.wait_claimed(1, 2)
    crew.finish(quick)
    crew.finish(slow)
    crew.end()


def test_a_leader_that_runs_something_else_by_now_is_not_relieved() -> None:
    crew = Crew(2)
    order = crew.give(2, shares=False)
    crew.wait_claimed(2)
    crew.threads.relieve([1])
    crew.give(3, shares=False).done.set()
    crew.finish(order)
    crew.wait_claimed(2, 3)
    assert crew.started == [1]
    crew.end()


def test_all_threads_end_when_they_have_run_what_they_run() -> None:
    crew = Crew(3)
    orders = [crew.give(seq, shares=True) for seq in (1, 2)]
    crew.wait_claimed(1, 2)
    crew.orders.put(None)
    crew.wait(lambda: crew.threads._is_over)
    for order in orders:
        order.done.set()
    crew.join()
    assert sorted(crew.answered) == [1, 2]


def test_without_another_thread_those_that_are_there_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(hook_threads, "start_late_thread", fail)
    crew = Crew(3)
    orders = [crew.give(seq, shares=True) for seq in (1, 2)]
    crew.wait_claimed(1)
    crew.finish(orders[0])
    crew.finish(orders[1])
    assert crew.started == [1]
    crew.end()
