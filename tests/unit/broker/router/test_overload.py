"""The age of what waits: bounded where the queue does not go away, and only there."""

from tests.support.peers.dispatches import RecordedDispatch
from tykpy.broker.router.clock import HOOK_TIMES, STANDING_NS, Overload
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import BLOCKING, HookInfo
from tykpy.broker.router.queue import PendingQueue

WAIT_NS = 100_000_000
FAST = HookInfo()
SLOW = HookInfo()
SLOW.times.expected_ns = STANDING_NS * 10


class Bench:
    """A queue, and its limit of age, at a time that the test sets."""

    def __init__(self, wait_ns: int = WAIT_NS) -> None:
        self.queue = PendingQueue()
        self.overload = Overload(wait_ns)
        self.overload.start(0)

    def take(self, now_ns: int, hook: HookInfo = FAST) -> Dispatch:
        """A dispatch comes and waits."""
        dispatch = RecordedDispatch()
        dispatch.taken_ns, dispatch.hook = now_ns, hook
        self.queue.push(dispatch)
        return dispatch

    def look(self, now_ns: int, saturated: bool = True) -> list[Dispatch]:
        """Who has waited too long."""
        return self.overload.look(self.queue, [saturated], now_ns)


def test_a_burst_may_wait() -> None:
    bench = Bench()
    bench.take(0)
    assert bench.look(STANDING_NS - 1) == []


def test_in_a_queue_that_stands_those_that_are_too_old_are_given_up() -> None:
    bench = Bench()
    old, older = bench.take(1), bench.take(2)
    bench.take(STANDING_NS - WAIT_NS)
    assert bench.look(STANDING_NS) == [old, older]


def test_a_queue_that_was_empty_in_between_does_not_stand() -> None:
    bench = Bench()
    bench.take(0)
    assert bench.queue.pop(BLOCKING)
    assert bench.look(STANDING_NS) == []
    bench.take(STANDING_NS)
    assert bench.look(2 * STANDING_NS - 1) == []
    assert len(bench.look(2 * STANDING_NS)) == 1


def test_without_a_worker_everything_waits_for_one() -> None:
    bench = Bench()
    waiting = bench.take(0)
    assert bench.look(10 * STANDING_NS, saturated=False) == []
    assert bench.look(11 * STANDING_NS - 1) == []
    assert bench.look(11 * STANDING_NS) == [waiting]


def test_long_hooks_may_wait_longer_and_do_not_hide_those_behind_them() -> None:
    bench = Bench()
    slow, fast = bench.take(0, SLOW), bench.take(0)
    assert bench.look(STANDING_NS) == [fast]
    assert slow in bench.look(HOOK_TIMES * SLOW.times.expected_ns + 1)


def test_what_was_settled_meanwhile_is_nobodys_matter() -> None:
    bench = Bench()
    gone = bench.take(0)
    gone.completed = True
    bench.queue.forget(gone)
    bench.take(STANDING_NS)
    assert bench.look(STANDING_NS) == []


def test_no_limit_is_no_limit() -> None:
    bench = Bench(wait_ns=0)
    bench.take(0)
    assert bench.look(100 * STANDING_NS) == []
