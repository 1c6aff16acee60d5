"""How many calls a worker gets at a time where that is learned: one that computes, and many that wait."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.channels import LocalWorker
from tests.unit.broker.router.bench import Bench
from tykpy.broker.router.link import PREFETCH
from tykpy.ipc.ring.layout import FLAG_MEASURE, FLAG_SHARES

THREADS: Final = 32
MS: Final = 1_000_000
LONG_NS: Final = 20 * MS


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def worker(sleeper: int) -> Iterator[LocalWorker]:
    worker = LocalWorker(threads=THREADS, learns=True, pid=sleeper)
    yield worker
    worker.close()


def run(bench: Bench, worker: LocalWorker, hook: str, *, waiting: float | None, ns: int = LONG_NS) -> int:
    """Run a hook once; return the request's flags."""
    bench.send(hook)
    request = worker.claim()
    worker.finish(request, handler_ns=ns, waiting=waiting)
    bench.router.receive(worker.link)
    return request.flags


@pytest.fixture
def learned(bench: Bench, worker: LocalWorker) -> Bench:
    """A router that knows five hooks, and their worker."""
    names = [{"name": name} for name in ("waits", "mostly", "half", "computes", "edits")]
    bench.router.hooks.update([{"name": "b", "hashes": [""], "hooks": names}])
    bench.router.join(worker.link)
    for _ in range(40):
        run(bench, worker, "waits", waiting=0.999)
        run(bench, worker, "mostly", waiting=0.85)
        run(bench, worker, "half", waiting=0.5)
        run(bench, worker, "computes", waiting=0)
        run(bench, worker, "edits", waiting=None, ns=MS // 50)
    return bench


def send(bench: Bench, *hooks: str) -> None:
    for hook in hooks:
        bench.send(hook)


def test_hooks_that_wait_are_given_a_thread_each(learned: Bench, worker: LocalWorker) -> None:
    send(learned, *["waits"] * (THREADS + 3))
    assert (len(worker.link.in_flight), learned.router.waiting) == (THREADS, 3)


def test_a_hook_that_computes_is_given_the_whole_worker(learned: Bench, worker: LocalWorker) -> None:
    send(learned, "computes", "waits")
    assert (len(worker.link.in_flight), learned.router.waiting) == (1, 1)


def test_a_hook_that_waits_half_of_its_time_is_run_twice(learned: Bench, worker: LocalWorker) -> None:
    send(learned, *["half"] * 3)
    assert (len(worker.link.in_flight), learned.router.waiting) == (2, 1)


def test_hooks_that_wait_leave_room_for_one_that_computes(learned: Bench, worker: LocalWorker) -> None:
    send(learned, "waits", "waits", "computes", "computes")
    assert (len(worker.link.in_flight), learned.router.waiting) == (3, 1)


def test_hooks_that_mostly_wait_leave_the_prefetch_to_others(learned: Bench, worker: LocalWorker) -> None:
    """Each seems to compute for 3 ms: one leaves the prefetch budget to others, their sum would not."""
    send(learned, *["mostly"] * 7)
    assert worker.link.is_full
    send(learned, "edits")
    assert (len(worker.link.in_flight), learned.router.waiting) == (8, 0)
    # Nothing is prefetched behind a hook that computes for as long.
    send(learned, "half", "edits")
    assert learned.router.waiting == 1


def test_short_hooks_are_prefetched(learned: Bench, worker: LocalWorker) -> None:
    send(learned, *["edits"] * (PREFETCH + 5))
    assert len(worker.link.in_flight) == 1 + PREFETCH


def test_requests_ask_for_measuring_and_sharing_as_learned(learned: Bench, worker: LocalWorker) -> None:
    assert run(learned, worker, "waits", waiting=0.999) == FLAG_MEASURE | FLAG_SHARES
    assert run(learned, worker, "computes", waiting=0) == FLAG_MEASURE
    assert run(learned, worker, "edits", waiting=None) == 0


def test_a_worker_whose_calls_wait_is_preferred(learned: Bench, worker: LocalWorker) -> None:
    send(learned, "waits", "waits")
    other = LocalWorker(1, 2, THREADS, learns=True)
    learned.router.join(other.link)
    send(learned, "edits", "edits")
    assert (len(worker.link.in_flight), len(other.link.in_flight)) == (3, 1)
    other.close()


def test_a_short_hook_that_starts_to_wait_makes_room(learned: Bench, worker: LocalWorker) -> None:
    """Its worker is asked to let another thread claim requests."""
    send(learned, "edits")
    first = worker.claim()
    send(learned, *["edits"] * 3)
    learned.turn_until(lambda: worker.link.asked)
    (message,) = worker.channel.control.receive()
    assert (message.name, message.body) == ("lead", [first.seq])
    assert (worker.link.is_full, learned.router.waiting) == (True, 3)
    learned.router.relieved(worker.link)
    learned.turn()
    following = worker.claim(1)
    assert following.flags & FLAG_SHARES
    worker.finish(following, 1)
    worker.finish(first)
    learned.router.receive(worker.link)


def test_a_worker_that_was_not_asked_changes_nothing(learned: Bench, worker: LocalWorker) -> None:
    send(learned, "computes")
    worker.claim()
    learned.router.relieved(worker.link)
    assert worker.link.is_full


def test_a_hanging_worker_gets_no_more_dispatches(learned: Bench, worker: LocalWorker) -> None:
    """The signal that makes it write its stacks may let its other threads run for a moment."""
    send(learned, "edits")
    worker.claim()
    learned.turn_until(lambda: worker.link.asked)
    worker.link.overdue.add(next(iter(worker.link.in_flight)))
    learned.router.relieved(worker.link)
    send(learned, "edits")
    assert learned.router.waiting == 1


def test_a_worker_that_neglects_dispatches_gets_no_more(learned: Bench, worker: LocalWorker) -> None:
    send(learned, "waits")
    running = worker.claim()
    learned.turn_until(lambda: worker.link.stalled)
    send(learned, "waits", "waits")
    assert learned.router.waiting == 0
    learned.turn_until(lambda: learned.router.waiting == 2)
    assert not worker.link.has_room
    worker.finish(running)
    learned.router.receive(worker.link)
    assert learned.router.waiting == 0


def test_a_fixed_number_of_threads_is_not_learned(bench: Bench, sleeper: int) -> None:
    worker = LocalWorker(threads=2, pid=sleeper)
    bench.router.join(worker.link)
    send(bench, "a")
    assert worker.claim().flags == FLAG_SHARES
    bench.turn_until(lambda: worker.link.stalled)
    send(bench, "b", "c")
    assert (len(worker.link.in_flight), bench.router.waiting) == (2, 1)
    worker.close()
