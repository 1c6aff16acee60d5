"""The router on real channels: late binding, one outcome per dispatch, deadlines, and what a death leaves behind."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator

import pytest

from broker.arriving import HELD_BYTES
from broker.errors import DispatchError
from broker.routing.contract import Death, RouterOptions
from broker.routing.deaths import MAX_ATTEMPTS
from broker.routing.link import PREFETCH, Link
from broker.routing.poison import Cause
from broker.routing.router import Router
from ipc.bodies import BodyStore
from ipc.channel import Request
from ipc.errors import IpcError
from ipc.frame import Kind, Status, pack_error, pack_frame, unpack_frame
from ipc.layout import ACTIVE_START, HEAD
from tests.support.channels import LocalWorker, local_worker
from tests.support.dispatches import RecordedDispatch, object_bytes
from tyk.proto.coprocess_object_pb2 import Object

LONG_NS = 60_000_000_000


class Bench:
    """A router on a loop that a test turns by hand."""

    def __init__(
        self, queue_size: int = 100, timeout_ns: int = LONG_NS, queue_wait_ns: int = 0, queue_bytes: int = HELD_BYTES
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.in_trouble: list[tuple[str, Link]] = []
        self.router = Router(self.loop, RouterOptions(timeout_ns, queue_size, queue_wait_ns, queue_bytes=queue_bytes))
        self.router.watched_by(self)

    def overdue(self, link: Link) -> None:
        """Remember a worker whose hook runs past its limit."""
        self.in_trouble.append(("overdue", link))

    def gone(self, link: Link) -> None:
        """Remember a worker that is not there any more."""
        self.in_trouble.append(("gone", link))

    def silent(self, link: Link) -> None:
        """Remember a worker that starts nothing."""
        self.in_trouble.append(("silent", link))

    def corrupt(self, link: Link, error: IpcError) -> None:
        """Remember a worker that wrote something impossible."""
        self.in_trouble.append(("corrupt", link))

    def turn(self) -> None:
        """Run what is due on the loop: the doorbells of this turn."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def turn_until(self, condition: Callable[[], bool]) -> None:
        """Let the loop's own timers run until something has come true."""

        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(poll(), 30))

    def send(self, hook: str = "hook", **options: int) -> RecordedDispatch:
        """Dispatch an object to a hook."""
        dispatch = RecordedDispatch(object_bytes(hook, options.pop("hook_type", 1)), **options)
        self.router.dispatch(dispatch)
        self.turn()
        return dispatch


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.loop.close()


@pytest.fixture
def worker() -> Iterator[LocalWorker]:
    with local_worker() as one:
        yield one


def hook_of(request: Request) -> bytes:
    return bytes(unpack_frame(request.payload).body)


def test_a_free_worker_gets_the_dispatch_and_its_answer_comes_back(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send("mine")
    worker.finish(worker.claim())
    bench.router.receive(worker.link)
    assert dispatch.outcomes == [object_bytes("mine")]
    assert (bench.router.under_way, bench.router.counters.answered) == (0, 1)


def test_without_a_worker_dispatches_wait_and_go_out_in_order(bench: Bench, worker: LocalWorker) -> None:
    dispatches = [bench.send(name) for name in ("first", "second")]
    assert bench.router.waiting == 2
    bench.router.join(worker.link)
    bench.turn()
    for dispatch in dispatches:
        request = worker.claim()
        assert hook_of(request) == dispatch.body
        worker.finish(request)
    bench.router.receive(worker.link)
    assert [dispatch.outcomes for dispatch in dispatches] == [[dispatch.body] for dispatch in dispatches]


def test_an_auth_hook_overtakes_others_that_wait(bench: Bench, worker: LocalWorker) -> None:
    bench.send("ordinary", hook_type=2)
    bench.send("auth", hook_type=4)
    bench.router.join(worker.link)
    bench.turn()
    first, second = worker.claim(), worker.claim()
    assert hook_of(first) == object_bytes("auth", 4)
    assert hook_of(second) == object_bytes("ordinary", 2)


def test_the_least_loaded_worker_is_chosen(bench: Bench, worker: LocalWorker) -> None:
    with local_worker(1, 2) as other:
        bench.router.join(worker.link)
        bench.router.join(other.link)
        for _ in range(4):
            bench.send()
        assert (len(worker.link.in_flight), len(other.link.in_flight)) == (2, 2)


def test_nothing_is_prefetched_behind_a_long_hook(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send()
    worker.finish(worker.claim(), handler_ns=60_000_000_000)
    bench.router.receive(worker.link)
    for _ in range(3):
        bench.send()
    assert (len(worker.link.in_flight), bench.router.waiting) == (1, 2)


def test_a_short_hook_is_prefetched_up_to_the_limit(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    for _ in range(60):
        bench.send()
        worker.finish(worker.claim(), handler_ns=1)
        bench.router.receive(worker.link)
    for _ in range(PREFETCH + 5):
        bench.send()
    assert len(worker.link.in_flight) == 1 + PREFETCH


def test_a_full_queue_is_answered_at_once() -> None:
    bench = Bench(queue_size=2)
    kept = [bench.send() for _ in range(2)]
    assert bench.send().status is Status.OVERLOADED
    assert [dispatch.outcomes for dispatch in kept] == [[], []]
    bench.loop.close()


def test_garbage_is_refused_without_a_worker(bench: Bench) -> None:
    dispatch = RecordedDispatch(b"\x0a\xff")
    bench.router.dispatch(dispatch)
    assert dispatch.status is Status.INVALID


def test_a_draining_router_takes_nothing_more(bench: Bench) -> None:
    bench.router.draining = True
    assert bench.send().status is Status.UNAVAILABLE


def test_giving_up_answers_what_waits_and_what_comes(bench: Bench) -> None:
    waiting = bench.send()
    bench.router.give_up("no worker can start: because")
    assert waiting.status is bench.send().status is Status.UNAVAILABLE
    assert bench.router.under_way == 0


def test_a_cancelled_dispatch_that_waits_never_runs(bench: Bench, worker: LocalWorker) -> None:
    gone, kept = bench.send("gone"), bench.send("kept")
    bench.router.cancel(gone)
    bench.router.join(worker.link)
    bench.turn()
    assert hook_of(worker.claim()) == kept.body
    assert (gone.outcomes, len(worker.link.in_flight)) == ([], 1)


def test_a_cancelled_dispatch_in_the_ring_never_runs(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    running, gone, kept = bench.send("running"), bench.send("gone"), bench.send("kept")
    request = worker.claim()
    bench.router.cancel(gone)
    bench.turn()
    worker.finish(request)
    following = worker.claim()
    assert hook_of(following) == kept.body
    worker.finish(following)
    bench.router.receive(worker.link)
    assert (running.outcomes, gone.outcomes, kept.outcomes) == ([running.body], [], [kept.body])


def test_the_answer_of_a_cancelled_dispatch_goes_nowhere(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    request = worker.claim()
    bench.router.cancel(dispatch)
    worker.finish(request)
    bench.router.receive(worker.link)
    assert (dispatch.outcomes, bench.router.counters.late, worker.link.in_flight) == ([], 1, {})


def test_a_dispatch_that_waits_too_long_expires(worker: LocalWorker) -> None:
    bench = Bench(timeout_ns=1)
    dispatch = bench.send()
    bench.turn_until(lambda: bool(dispatch.outcomes))
    assert dispatch.status is Status.EXPIRED
    assert (bench.router.waiting, bench.in_trouble) == (0, [])
    bench.loop.close()


def test_the_callers_own_limit_counts_where_it_is_shorter(bench: Bench) -> None:
    dispatch = bench.send(timeout_ns=1)
    bench.turn_until(lambda: bool(dispatch.outcomes))
    assert dispatch.status is Status.EXPIRED


def test_a_hook_past_its_deadline_is_reported_once_and_its_worker_is_overdue(worker: LocalWorker) -> None:
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


def test_a_hook_that_nobody_waits_for_still_hangs_when_its_own_limit_has_passed(worker: LocalWorker) -> None:
    bench = Bench(timeout_ns=50_000_000)
    bench.router.join(worker.link)
    dispatch = bench.send()
    worker.claim()
    bench.router.cancel(dispatch)
    assert bench.in_trouble == []
    bench.turn_until(lambda: bench.in_trouble == [("overdue", worker.link)])
    assert dispatch.outcomes == []
    bench.loop.close()


def test_a_callers_own_short_deadline_does_not_make_the_hook_hang(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send(timeout_ns=100_000_000)
    request = worker.claim()
    bench.turn_until(lambda: bool(dispatch.outcomes))
    worker.finish(request)
    bench.router.receive(worker.link)
    assert (bench.in_trouble, worker.link.in_flight) == ([], {})


def test_a_hook_that_had_to_wait_has_its_whole_time_from_its_start(worker: LocalWorker) -> None:
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


def test_what_a_worker_says_of_a_start_in_the_future_is_not_believed(worker: LocalWorker) -> None:
    bench = Bench(timeout_ns=50_000_000)
    bench.router.join(worker.link)
    bench.send()
    worker.claim()
    worker.channel._words[ACTIVE_START] = 2**63
    bench.turn_until(lambda: bench.in_trouble == [("overdue", worker.link)])
    bench.loop.close()


def test_in_an_overload_those_that_waited_too_long_are_told_so_and_never_run(worker: LocalWorker) -> None:
    bench = Bench(queue_wait_ns=1)
    bench.router.join(worker.link)
    running = bench.send()
    request = worker.claim()
    bench.router.hooks.find("", "").expected_ns = 0
    worker.link.stalled = True
    waiting = bench.send()
    bench.turn_until(lambda: bool(waiting.outcomes))
    assert waiting.status is Status.OVERLOADED
    assert "--queue-wait" in str(waiting.outcomes[0])
    assert (bench.router.counters.shed, bench.router.counters.failed) == (1, 1)
    worker.finish(request)
    bench.router.receive(worker.link)
    assert (running.outcomes, bench.router.under_way) == ([running.body], 0)
    assert worker.link.in_flight == {}
    bench.loop.close()


def test_a_worker_that_starts_nothing_is_asked_and_its_work_given_to_another(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    bench.turn_until(lambda: bench.in_trouble == [("silent", worker.link)])
    with local_worker(1, 2) as other:
        bench.router.join(other.link)
        bench.turn()
        other.finish(other.claim())
        bench.router.receive(other.link)
        bench.router.leave(other.link)
    assert dispatch.outcomes == [dispatch.body]
    following = bench.send()
    assert (worker.link.in_flight, bench.router.waiting) == ({}, 1)
    bench.router.awake(worker.link)
    bench.turn()
    worker.finish(worker.claim())
    bench.router.receive(worker.link)
    assert following.outcomes == [following.body]


def test_what_waits_behind_a_stalled_hook_goes_to_another_worker(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send("stuck")
    neighbour = bench.send("neighbour")
    worker.claim()
    bench.turn_until(lambda: bench.router.waiting == 1)
    with local_worker(1, 2) as other:
        bench.router.join(other.link)
        bench.turn()
        other.finish(other.claim())
        bench.router.receive(other.link)
        assert neighbour.outcomes == [neighbour.body]


def test_what_waits_in_a_ring_behind_one_that_has_expired_goes_to_another_worker(
    bench: Bench, worker: LocalWorker
) -> None:
    """Dispatches of `async def` hooks are given to a worker although its thread is stuck."""
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


def test_a_death_fails_what_ran_and_dispatches_the_rest_again(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    answered, running, waiting = bench.send("answered"), bench.send("running"), bench.send("waiting")
    worker.finish(worker.claim())
    worker.claim()
    channel = worker.link.channel
    bench.router.lost(
        worker.link,
        Death("worker 0 was ended by SIGKILL", answers=channel.drain(), executing=channel.executing()),
    )
    assert answered.outcomes == [answered.body]
    assert running.status is Status.HOOK_FAILED
    assert "ended by SIGKILL while it ran this hook (running)" in str(running.outcomes[0])
    with local_worker(0, 2) as heir:
        bench.router.join(heir.link)
        bench.turn()
        heir.finish(heir.claim())
        bench.router.receive(heir.link)
    assert waiting.outcomes == [waiting.body]
    assert bench.router.counters.redispatched == 1


def test_an_idempotent_hook_runs_again_once(bench: Bench, worker: LocalWorker) -> None:
    hook = {"name": "again", "idempotent": True}
    bench.router.hooks.update([{"name": "b", "hashes": [""], "hooks": [hook]}])
    dispatch = bench.send("again")
    bench.router.join(worker.link)
    bench.turn()
    worker.claim()
    bench.router.lost(worker.link, Death("worker 0 died", executing=worker.link.channel.executing()))
    assert dispatch.outcomes == []
    with local_worker(0, 2) as heir:
        bench.router.join(heir.link)
        bench.turn()
        heir.claim()
        bench.router.lost(heir.link, Death("worker 0 died", executing=heir.link.channel.executing()))
    assert dispatch.status is Status.HOOK_FAILED


def test_a_dispatch_that_never_gets_started_is_given_up_after_some_deaths(bench: Bench) -> None:
    dispatch = bench.send()
    for generation in range(MAX_ATTEMPTS):
        assert dispatch.outcomes == []
        with local_worker(0, generation) as worker:
            bench.router.join(worker.link)
            bench.router.lost(worker.link, Death("worker 0 died", Cause.CRASH))
    assert dispatch.status is Status.HOOK_FAILED


def test_a_dispatch_that_never_started_survives_any_number_of_kills_from_outside(bench: Bench) -> None:
    dispatch = bench.send()
    for generation in range(3 * MAX_ATTEMPTS):
        with local_worker(0, generation) as worker:
            bench.router.join(worker.link)
            bench.router.lost(worker.link, Death("worker 0 was ended by SIGKILL", Cause.OUTSIDE))
    with local_worker(0, 99) as heir:
        bench.router.join(heir.link)
        bench.turn()
        heir.finish(heir.claim())
        bench.router.receive(heir.link)
    assert dispatch.outcomes == [dispatch.body]


def test_deaths_before_an_idempotent_hook_started_do_not_cost_it_its_retry(bench: Bench) -> None:
    hook = {"name": "again", "idempotent": True}
    bench.router.hooks.update([{"name": "b", "hashes": [""], "hooks": [hook]}])
    dispatch = bench.send("again")
    with local_worker(0, 1) as first:
        bench.router.join(first.link)
        bench.router.lost(first.link, Death("worker 0 died", Cause.CRASH))
    with local_worker(0, 2) as second:
        bench.router.join(second.link)
        bench.turn()
        second.claim()
        bench.router.lost(second.link, Death("worker 0 died", Cause.OUTSIDE, executing=second.link.channel.executing()))
    with local_worker(0, 3) as third:
        bench.router.join(third.link)
        bench.turn()
        third.finish(third.claim())
        bench.router.receive(third.link)
    assert dispatch.outcomes == [dispatch.body]


def test_a_workers_error_keeps_its_status_and_message(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    seq = worker.claim().seq
    worker.channel.answer(0, seq, pack_error(Status.NOT_FOUND, "no hook of that name"), True, 0)
    bench.router.receive(worker.link)
    (error,) = dispatch.outcomes
    assert isinstance(error, DispatchError)
    assert (error.status, error.message) == (Status.NOT_FOUND, "no hook of that name")


@pytest.mark.parametrize(
    ("payload", "is_error"),
    [
        (b"\xc1", False),
        (b"\xc1", True),
        (pack_frame(Kind.EVENT, None, b""), False),
        (pack_frame(Kind.OBJECT, None, {"a": 1}), False),
        (pack_frame(Kind.ERROR, None, [999, "no such status"]), True),
        (pack_frame(Kind.ERROR, None, "text"), True),
    ],
)
def test_a_worker_that_answers_nonsense_costs_its_caller_an_error_and_nobody_else(
    bench: Bench, worker: LocalWorker, payload: bytes, is_error: bool
) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    worker.channel.answer(0, worker.claim().seq, payload, is_error, 0)
    bench.router.receive(worker.link)
    assert dispatch.status is Status.INTERNAL
    assert bench.router.under_way == 0


def test_a_big_message_for_a_worker_that_is_gone_is_run_by_another(
    bench: Bench, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BodyStore, "begin", lambda self, size: None)  # there is no room in the store
    bench.router.join(worker.link)
    worker.channel._parts.spills.close()
    with local_worker(1, 2) as other:
        big = Object(hook_name="hook", request={"raw_body": bytes(100_000)})
        dispatch = RecordedDispatch(big.SerializeToString())
        bench.router.dispatch(dispatch)
        assert bench.in_trouble == [("gone", worker.link)]
        bench.turn()
        assert bench.router.waiting == 1
        bench.router.join(other.link)
        bench.turn()
        other.finish(other.claim())
        bench.router.receive(other.link)
    assert dispatch.outcomes == [dispatch.body]
    assert worker.link not in bench.router.pool


def test_a_message_above_the_limit_is_an_error_that_says_so(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = RecordedDispatch(object_bytes("x" * 2_000_000))
    bench.router.dispatch(dispatch)
    assert dispatch.status is Status.TOO_LARGE
    assert worker.link.in_flight == {}


def test_idle_returns_when_the_last_dispatch_is_settled(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send()
    worker.finish(worker.claim())
    bench.loop.call_soon(bench.router.receive, worker.link)
    bench.loop.run_until_complete(asyncio.wait_for(bench.router.idle(), 30))
    assert bench.router.under_way == 0


def flood_the_doorbell(worker: LocalWorker) -> None:
    """Fill the pipe through its other end."""
    writer = os.open(f"/proc/self/fd/{worker.link.channel._parts.requests._reader}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"\0"):
            continue
    os.close(writer)


def test_a_worker_that_floods_its_doorbell_does_not_keep_the_broker_from_ringing_for_others(bench: Bench) -> None:
    with local_worker(0, 1) as hostile, local_worker(1, 2) as other:
        for worker in (hostile, other):
            bench.router.join(worker.link)
        flood_the_doorbell(hostile)
        for _ in range(2):
            bench.router.dispatch(RecordedDispatch(object_bytes("hook")))
        bench.turn()
        assert bench.in_trouble == [("corrupt", hostile.link)]
        assert hostile.link not in bench.router.pool
        other.finish(other.claim())
        bench.router.receive(other.link)
        assert bench.router.counters.answered == 1


@pytest.mark.parametrize("head", [1 << 40, 2**64 - 1])
def test_what_cannot_be_given_to_a_worker_with_an_impossible_head_goes_to_another(bench: Bench, head: int) -> None:
    with local_worker(0, 1) as hostile, local_worker(1, 2) as other:
        bench.router.join(hostile.link)
        hostile.channel._words[HEAD] = head
        hostile.link.channel._producer._limit = 0  # as it is once the ring has been filled
        dispatch = bench.send()
        assert bench.in_trouble == [("corrupt", hostile.link)]
        assert dispatch.outcomes == []
        bench.router.join(other.link)
        bench.turn()
        other.finish(other.claim())
        bench.router.receive(other.link)
        assert dispatch.outcomes == [dispatch.body]


def test_nothing_that_a_worker_has_runs_again_if_it_forges_tokens(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    first, second = bench.send("first"), bench.send("second")
    worker.claim()
    flood_the_doorbell(worker)
    bench.router.cancel(second)
    assert bench.in_trouble == [("corrupt", worker.link)]
    channel = worker.link.channel
    with local_worker(1, 2) as other:
        bench.router.join(other.link)
        death = Death("worker 0 died", Cause.CRASH, channel.drain(), channel.executing(), trusted=False)
        bench.router.lost(worker.link, death)
        assert not other.link.in_flight
    assert (first.status, second.outcomes) == (Status.HOOK_FAILED, [])
