"""Time: deadlines, hooks that hang, workers that stall or start nothing, queues that do not empty."""

import time

from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.dispatches import RecordedDispatch
from tests.unit.broker.router.bench import Bench, hook_of
from tykpy.broker.errors import Rejection
from tykpy.broker.router.clock import HOOK_TIMES, STANDING_NS, Overload
from tykpy.broker.router.deadlines import TICK_BITS, DeadlineWheel
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_info import BLOCKING, HookInfo
from tykpy.broker.router.hook_stats import AllHookStats
from tykpy.broker.router.queue import PendingQueue
from tykpy.ipc.frame import Status
from tykpy.ipc.ring.layout import ACTIVE_START


def test_a_dispatch_that_waits_too_long_expires(worker: LocalWorker) -> None:
    bench = Bench(timeout_ns=1)
    dispatch = bench.send()
    bench.turn_until(lambda: bool(dispatch.outcomes))
    assert dispatch.status is Status.EXPIRED
    assert (bench.router.waiting, bench.in_trouble) == (0, [])
    bench.loop.close()


def test_a_callers_shorter_limit_counts(bench: Bench) -> None:
    dispatch = bench.send(timeout_ns=1)
    bench.turn_until(lambda: bool(dispatch.outcomes))
    assert dispatch.status is Status.EXPIRED


def test_a_hook_past_its_deadline_makes_its_worker_overdue(worker: LocalWorker) -> None:
    bench = Bench(timeout_ns=50_000_000)
    bench.router.join(worker.link)
    dispatch = bench.send()
    request = worker.claim()
    bench.turn_until(lambda: bool(dispatch.outcomes))
    bench.turn_until(lambda: bench.in_trouble == [("overdue", worker.link)])
    assert dispatch.status is Status.EXPIRED
    worker.finish(request)
    bench.router.receive(worker.link)
    assert (len(dispatch.outcomes), bench.router.counters.late, worker.link.overdue) == (1, 1, set())
    bench.loop.close()


def test_a_cancelled_call_still_hangs_after_its_hooks_limit(worker: LocalWorker) -> None:
    bench = Bench(timeout_ns=50_000_000)
    bench.router.join(worker.link)
    dispatch = bench.send()
    worker.claim()
    bench.router.cancel(dispatch)
    assert bench.in_trouble == []
    bench.turn_until(lambda: bench.in_trouble == [("overdue", worker.link)])
    assert dispatch.outcomes == []
    bench.loop.close()


def test_a_callers_short_deadline_does_not_make_a_hook_hang(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send(timeout_ns=100_000_000)
    request = worker.claim()
    bench.turn_until(lambda: bool(dispatch.outcomes))
    worker.finish(request)
    bench.router.receive(worker.link)
    assert (bench.in_trouble, worker.link.in_flight) == ([], {})


def test_a_limit_counts_from_the_start_of_a_hook_that_waited(worker: LocalWorker) -> None:
    limit_ns = 400_000_000
    bench = Bench(timeout_ns=limit_ns)
    dispatch = bench.send()
    bench.turn_until(lambda: time.monotonic_ns() > dispatch.taken_ns + limit_ns // 2)
    bench.router.join(worker.link)
    bench.turn()
    worker.claim()
    started = time.monotonic_ns()
    bench.turn_until(lambda: bool(dispatch.outcomes))
    assert dispatch.status is Status.EXPIRED
    bench.turn_until(lambda: bench.in_trouble == [("overdue", worker.link)])
    assert time.monotonic_ns() - started >= limit_ns
    bench.loop.close()


def test_a_start_in_the_future_is_not_believed(worker: LocalWorker) -> None:
    bench = Bench(timeout_ns=50_000_000)
    bench.router.join(worker.link)
    bench.send()
    worker.claim()
    worker.channel._words[ACTIVE_START] = 2**63
    bench.turn_until(lambda: bench.in_trouble == [("overdue", worker.link)])
    bench.loop.close()


def test_an_overload_sheds_dispatches_that_waited_too_long(worker: LocalWorker) -> None:
    bench = Bench(queue_wait_ns=1)
    bench.router.join(worker.link)
    running = bench.send()
    request = worker.claim()
    bench.router.hooks.unknown.times.expected_ns = 0
    worker.link.stalled = True
    waiting = bench.send()
    bench.turn_until(lambda: bool(waiting.outcomes))
    assert waiting.status is Status.OVERLOADED
    assert "--queue-wait" in str(waiting.outcomes[0])
    assert (bench.router.counters.shed, bench.router.counters.failed) == (1, 1)
    assert bench.router.rejected == {Rejection.SHED: 1}
    worker.finish(request)
    bench.router.receive(worker.link)
    assert (running.outcomes, bench.router.under_way) == ([running.body], 0)
    assert worker.link.in_flight == {}
    bench.loop.close()


def test_a_worker_that_starts_nothing_loses_its_dispatches(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    bench.turn_until(lambda: bench.in_trouble == [("silent", worker.link)])
    with local_worker(1, 2) as other:
        bench.run_on(other)
        bench.router.leave(other.link)
    assert dispatch.outcomes == [dispatch.body]
    following = bench.send()
    assert (worker.link.in_flight, bench.router.waiting) == ({}, 1)
    bench.router.awake(worker.link)
    bench.turn()
    worker.finish(worker.claim())
    bench.router.receive(worker.link)
    assert following.outcomes == [following.body]


def test_dispatches_behind_a_stalled_hook_go_to_another_worker(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send("stuck")
    neighbour = bench.send("neighbour")
    worker.claim()
    bench.turn_until(lambda: bench.router.waiting == 1)
    with local_worker(1, 2) as other:
        bench.run_on(other)
        assert neighbour.outcomes == [neighbour.body]


def test_dispatches_behind_an_expired_one_go_to_another_worker(bench: Bench, worker: LocalWorker) -> None:
    """Dispatches of `async def` hooks go to a worker even while its thread is stuck."""
    hook = {"name": "waits", "is_async": True}
    bench.router.hooks.update([{"name": "b", "hashes": [""], "hooks": [hook]}])
    bench.router.join(worker.link)
    bench.send("stuck")
    worker.claim()
    bench.turn_until(lambda: worker.link.stalled)
    expired, neighbour = bench.send("waits", timeout_ns=20_000_000), bench.send("waits")
    assert neighbour.link is worker.link
    with local_worker(1, 2) as other:
        bench.router.join(other.link)
        bench.turn_until(lambda: neighbour.link is other.link)
        assert expired.status is Status.EXPIRED
        request = other.claim()
        assert hook_of(request) == neighbour.body
        other.finish(request)
        bench.router.receive(other.link)
    assert neighbour.outcomes == [neighbour.body]


def wake(bench: Bench, worker: LocalWorker) -> None:
    """Let a silent worker show that it lives."""
    if worker.link.silent:
        bench.router.awake(worker.link)


def test_a_live_worker_that_starts_nothing_is_counted(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send()

    def missed_often() -> bool:
        wake(bench, worker)
        return worker.link.missed >= 3

    bench.turn_until(missed_often)
    assert worker.link.idle_ns(time.monotonic_ns()) > 0
    bench.turn_until(lambda: worker.link.silent)
    wake(bench, worker)
    bench.turn()
    worker.finish(worker.claim())
    bench.router.receive(worker.link)
    bench.send()
    bench.turn_until(lambda: worker.link.silent)
    assert worker.link.missed == 1


def test_dispatches_that_expire_unstarted_are_counted_too(bench: Bench, worker: LocalWorker) -> None:
    """Even if they expire soon: a worker that is asked only after a long silence would never be asked."""
    bench.router.join(worker.link)
    for number in range(1, 4):
        dispatch = bench.send(timeout_ns=20_000_000)
        bench.turn_until(lambda expired=dispatch: bool(expired.outcomes))  # type: ignore[misc]
        assert worker.link.missed == number
        wake(bench, worker)


def test_an_overloaded_worker_between_two_hooks_is_not_idle(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    expired = bench.send(timeout_ns=20_000_000)
    # It answers others all the time, even right before the tick, whenever that comes.
    worker.link.progress_ns = time.monotonic_ns() + 60_000_000_000
    bench.turn_until(lambda: bool(expired.outcomes))
    assert (worker.link.missed, bench.in_trouble) == (0, [])


def test_a_busy_worker_is_not_idle(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send()
    worker.claim()
    expired = bench.send(timeout_ns=20_000_000)
    bench.turn_until(lambda: bool(expired.outcomes))
    assert (worker.link.missed, bench.in_trouble) == (0, [])


def test_a_worker_without_its_thread_is_idle_despite_coroutines(bench: Bench, worker: LocalWorker) -> None:
    hook = {"name": "waits", "is_async": True}
    bench.router.hooks.update([{"name": "b", "hashes": [""], "hooks": [hook]}])
    bench.router.join(worker.link)
    bench.send("waits")
    request = worker.claim()
    worker.channel.move(request.seq, 0, 5)
    bench.turn_until(lambda: worker.link.stalled)
    expired = bench.send(timeout_ns=20_000_000)
    bench.turn_until(lambda: bool(expired.outcomes))
    assert worker.link.missed == 1


TICK = 1 << TICK_BITS


def at(deadline_ns: int) -> RecordedDispatch:
    dispatch = RecordedDispatch()
    dispatch.deadline_ns = deadline_ns
    return dispatch


def test_nothing_expires_before_its_slot_has_passed() -> None:
    wheel = DeadlineWheel()
    wheel.add(at(5 * TICK))
    assert wheel.expired(5 * TICK) == []
    assert wheel.expired(6 * TICK - 1) == []
    assert wheel


def test_a_deadline_is_acted_on_at_most_one_slot_late() -> None:
    wheel = DeadlineWheel()
    late = at(5 * TICK + 7)
    wheel.add(late)
    assert wheel.expired(late.deadline_ns + TICK) == [late]
    assert not wheel


def test_expired_dispatches_come_earliest_first() -> None:
    wheel = DeadlineWheel()
    second, first = at(9 * TICK), at(2 * TICK)
    wheel.add(second)
    wheel.add(first)
    assert wheel.expired(100 * TICK) == [first, second]


def test_a_discarded_dispatch_never_expires() -> None:
    wheel = DeadlineWheel()
    gone, other = at(3 * TICK), at(3 * TICK)
    wheel.add(gone)
    wheel.add(other)
    wheel.discard(gone)
    wheel.discard(gone)
    assert wheel.expired(10 * TICK) == [other]


def test_an_empty_slot_is_removed() -> None:
    wheel = DeadlineWheel()
    only = at(3 * TICK)
    wheel.add(only)
    wheel.discard(only)
    assert not wheel


WAIT_NS = 100_000_000
FAST = HookInfo(AllHookStats().unknown)
SLOW = HookInfo(AllHookStats().unknown)
SLOW.times.expected_ns = STANDING_NS * 10


class AgingQueue:
    """A queue with a limit of age, at a time that the test sets."""

    def __init__(self, wait_ns: int = WAIT_NS) -> None:
        self.queue = PendingQueue()
        self.overload = Overload(wait_ns)
        self.overload.start(0)

    def take(self, now_ns: int, hook: HookInfo = FAST) -> Dispatch:
        """Queue a dispatch."""
        dispatch = RecordedDispatch()
        dispatch.taken_ns, dispatch.hook = now_ns, hook
        self.queue.push(dispatch)
        return dispatch

    def look(self, now_ns: int, saturated: bool = True) -> list[Dispatch]:
        """Return the dispatches that have waited too long."""
        return self.overload.look(self.queue, [saturated], now_ns)


def test_a_burst_may_wait() -> None:
    aging = AgingQueue()
    aging.take(0)
    assert aging.look(STANDING_NS - 1) == []


def test_a_standing_queue_sheds_old_dispatches() -> None:
    aging = AgingQueue()
    old, older = aging.take(1), aging.take(2)
    aging.take(STANDING_NS - WAIT_NS)
    assert aging.look(STANDING_NS) == [old, older]


def test_a_queue_that_was_empty_meanwhile_does_not_stand() -> None:
    aging = AgingQueue()
    aging.take(0)
    assert aging.queue.pop(BLOCKING)
    assert aging.look(STANDING_NS) == []
    aging.take(STANDING_NS)
    assert aging.look(2 * STANDING_NS - 1) == []
    assert len(aging.look(2 * STANDING_NS)) == 1


def test_without_a_worker_everything_waits_for_one() -> None:
    aging = AgingQueue()
    waiting = aging.take(0)
    assert aging.look(10 * STANDING_NS, saturated=False) == []
    assert aging.look(11 * STANDING_NS - 1) == []
    assert aging.look(11 * STANDING_NS) == [waiting]


def test_long_hooks_may_wait_longer_than_those_behind_them() -> None:
    aging = AgingQueue()
    slow, fast = aging.take(0, SLOW), aging.take(0)
    assert aging.look(STANDING_NS) == [fast]
    assert slow in aging.look(HOOK_TIMES * SLOW.times.expected_ns + 1)


def test_completed_dispatches_are_not_shed() -> None:
    aging = AgingQueue()
    gone = aging.take(0)
    gone.completed = True
    aging.queue.forget(gone)
    aging.take(STANDING_NS)
    assert aging.look(STANDING_NS) == []


def test_without_a_limit_nothing_is_shed() -> None:
    aging = AgingQueue(wait_ns=0)
    aging.take(0)
    assert aging.look(100 * STANDING_NS) == []
