"""The router on real channels: which worker gets a dispatch, and one outcome for each."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack

import msgpack
import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tests.unit.broker.router.bench import Bench, hook_of
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.errors import DispatchError, Rejection
from tykpy.broker.router.deaths import Cause, Death
from tykpy.broker.router.hook_info import BLOCKING, HookInfo
from tykpy.broker.router.hook_stats import AllHookStats
from tykpy.broker.router.link import PREFETCH, Link
from tykpy.broker.router.link_pool import LinkPool
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.frame import Kind, Packed, Status, pack_error, pack_frame
from tykpy.ipc.ring.layout import HEAD


def test_a_free_worker_answers_a_dispatch(bench: Bench, worker: LocalWorker) -> None:
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


def test_a_full_queue_is_answered_at_once() -> None:
    bench = Bench(queue_size=2)
    other = [bench.send() for _ in range(2)]
    assert bench.send().status is Status.OVERLOADED
    assert [dispatch.outcomes for dispatch in other] == [[], []]
    assert bench.router.rejected == {Rejection.QUEUE_FULL: 1}
    bench.loop.close()


def test_garbage_is_refused_without_a_worker(bench: Bench) -> None:
    dispatch = RecordedDispatch(b"\x0a\xff")
    bench.router.dispatch(dispatch)
    assert dispatch.status is Status.INVALID


def test_a_draining_router_takes_nothing_more(bench: Bench) -> None:
    bench.router.draining = True
    assert bench.send().status is Status.UNAVAILABLE
    assert bench.router.rejected == {Rejection.DRAINING: 1}


def test_giving_up_fails_waiting_and_new_dispatches(bench: Bench) -> None:
    waiting = bench.send()
    bench.router.give_up("no worker can start: because")
    assert waiting.status is bench.send().status is Status.UNAVAILABLE
    assert bench.router.under_way == 0
    assert bench.router.rejected == {Rejection.NO_WORKERS: 2}


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
        ((b"\xc1", None), False),
        ((b"\xc1", None), True),
        (pack_frame(Kind.EVENT, None, b""), False),
        ((msgpack.packb([Kind.OBJECT, None, {"a": 1}]), None), False),
        ((msgpack.packb([Kind.ERROR, None, [999, "no such status"]]), None), True),
        ((msgpack.packb([Kind.ERROR, None, "text"]), None), True),
    ],
)
def test_a_nonsensical_answer_fails_only_its_own_call(
    bench: Bench, worker: LocalWorker, payload: Packed, is_error: bool
) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    worker.channel.answer(0, worker.claim().seq, payload, is_error, 0)
    bench.router.receive(worker.link)
    assert dispatch.status is Status.INTERNAL
    assert bench.router.under_way == 0


def test_idle_returns_when_the_last_dispatch_completes(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send()
    worker.finish(worker.claim())
    bench.loop.call_soon(bench.router.receive, worker.link)
    bench.loop.run_until_complete(asyncio.wait_for(bench.router.idle(), 30))
    assert bench.router.under_way == 0


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


def test_a_cancelled_dispatch_that_waits_never_runs(bench: Bench, worker: LocalWorker) -> None:
    gone, other = bench.send("gone"), bench.send("other")
    bench.router.cancel(gone)
    bench.router.join(worker.link)
    bench.turn()
    assert hook_of(worker.claim()) == other.body
    assert (gone.outcomes, len(worker.link.in_flight)) == ([], 1)


def test_a_cancelled_dispatch_in_the_ring_never_runs(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    running, gone, other = bench.send("running"), bench.send("gone"), bench.send("other")
    request = worker.claim()
    bench.router.cancel(gone)
    bench.turn()
    worker.finish(request)
    following = worker.claim()
    assert hook_of(following) == other.body
    worker.finish(following)
    bench.router.receive(worker.link)
    assert (running.outcomes, gone.outcomes, other.outcomes) == ([running.body], [], [other.body])


def test_the_answer_of_a_cancelled_dispatch_goes_nowhere(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    request = worker.claim()
    bench.router.cancel(dispatch)
    worker.finish(request)
    bench.router.receive(worker.link)
    assert (dispatch.outcomes, bench.router.counters.late, worker.link.in_flight) == ([], 1, {})


def test_a_big_message_for_a_gone_worker_goes_to_another(
    bench: Bench, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BodyStore, "begin", lambda self, size: None)  # the store is full
    bench.router.join(worker.link)
    worker.channel._parts.spills.close()
    with local_worker(1, 2) as other:
        big = Object(hook_name="hook", request={"raw_body": bytes(100_000)})
        dispatch = RecordedDispatch(big.SerializeToString())
        bench.router.dispatch(dispatch)
        assert bench.in_trouble == [("gone", worker.link)]
        bench.turn()
        assert bench.router.waiting == 1
        bench.run_on(other)
    assert dispatch.outcomes == [dispatch.body]
    assert worker.link not in bench.router.pool


def test_a_message_above_the_limit_is_an_error_that_says_so(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = RecordedDispatch(object_bytes("x" * 2_000_000))
    bench.router.dispatch(dispatch)
    assert dispatch.status is Status.TOO_LARGE
    assert "xxx...: the request has 20000" in str(dispatch.outcomes[0])
    assert "--max-message" in str(dispatch.outcomes[0])
    assert worker.link.in_flight == {}


def flood_the_doorbell(worker: LocalWorker) -> None:
    """Fill the pipe from its other end."""
    writer = os.open(f"/proc/self/fd/{worker.link.channel._parts.requests._reader}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"\0"):
            continue
    os.close(writer)


def test_a_flooded_doorbell_does_not_silence_others(bench: Bench) -> None:
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
def test_an_impossible_head_moves_the_dispatch_to_another_worker(bench: Bench, head: int) -> None:
    with local_worker(0, 1) as hostile, local_worker(1, 2) as other:
        bench.router.join(hostile.link)
        hostile.channel._words[HEAD] = head
        hostile.link.channel._producer._limit = 0  # as after the ring was filled once
        dispatch = bench.send()
        assert bench.in_trouble == [("corrupt", hostile.link)]
        assert dispatch.outcomes == []
        bench.run_on(other)
        assert dispatch.outcomes == [dispatch.body]


def test_nothing_runs_again_after_a_worker_forged_tokens(bench: Bench, worker: LocalWorker) -> None:
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


def test_a_leaving_worker_gives_back_unstarted_dispatches(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    running, waiting = bench.send("running"), bench.send("waiting")
    request = worker.claim()
    assert waiting.link is worker.link
    with local_worker(1, 2) as other:
        bench.router.join(other.link)
        bench.router.leave(worker.link)
        bench.turn()
        assert waiting.link is other.link
        other.finish(other.claim())
        bench.router.receive(other.link)
    assert waiting.outcomes == [waiting.body]
    worker.finish(request)
    bench.router.receive(worker.link)
    assert running.outcomes == [running.body]


CPUS = 2
_seqs = itertools.count(1)


def short_hook() -> HookInfo:
    hook = HookInfo(AllHookStats().unknown)
    for _ in range(100):
        hook.times.learn(1)
    return hook


@pytest.fixture
def links() -> Iterator[list[Link]]:
    with ExitStack() as stack:
        found = [stack.enter_context(local_worker(slot, slot + 1)).link for slot in range(4)]
        for link in found:
            link.open = True
        yield found


@pytest.fixture
def pool(links: list[Link]) -> LinkPool:
    pool = LinkPool(CPUS)
    for link in links:
        pool.add(link)
    return pool


def give(pool: LinkPool, *, is_short: bool) -> Link | None:
    """Give the next dispatch to the worker that the pool chooses."""
    link = pool.choose(BLOCKING, is_short=is_short)
    if link is not None:
        dispatch = RecordedDispatch(object_bytes("hook"))
        dispatch.hook = short_hook()
        link.send(dispatch, next(_seqs))
        pool.moved(link)
    return link


def test_hooks_that_may_wait_are_spread_over_all_workers(pool: LinkPool, links: list[Link]) -> None:
    for _ in range(8):
        give(pool, is_short=False)
    assert [len(link.in_flight) for link in links] == [2, 2, 2, 2]


def test_short_hooks_wake_no_more_workers_than_cpus(pool: LinkPool, links: list[Link]) -> None:
    for _ in range(8):
        give(pool, is_short=True)
    assert sorted(len(link.in_flight) for link in links) == [0, 0, 4, 4]


def test_short_hooks_go_to_idle_workers_when_others_are_full(pool: LinkPool, links: list[Link]) -> None:
    for _ in range(CPUS * (1 + PREFETCH)):
        give(pool, is_short=True)
    assert sorted(len(link.in_flight) for link in links) == [0, 0, 1 + PREFETCH, 1 + PREFETCH]
    give(pool, is_short=True)
    assert sorted(len(link.in_flight) for link in links) == [0, 1, 1 + PREFETCH, 1 + PREFETCH]


def test_short_hooks_do_not_wait_for_stalled_workers(pool: LinkPool, links: list[Link]) -> None:
    for link in links[:CPUS]:
        link.stalled = True
        link.loads[BLOCKING] = 1
        link.in_flight[next(_seqs)] = RecordedDispatch(object_bytes("hook"))
        pool.moved(link)
    assert give(pool, is_short=True) in links[CPUS:]


def test_a_single_short_hook_goes_to_an_idle_worker(pool: LinkPool, links: list[Link]) -> None:
    first = give(pool, is_short=True)
    second = give(pool, is_short=True)
    assert first is not second


def test_no_link_is_chosen_if_all_are_full(pool: LinkPool, links: list[Link]) -> None:
    while give(pool, is_short=False) is not None:
        pass
    assert [len(link.in_flight) for link in links] == [1 + PREFETCH] * 4
    assert pool.choose(BLOCKING, is_short=True) is None


def test_a_worker_that_left_is_not_chosen(pool: LinkPool, links: list[Link]) -> None:
    for link in links[1:]:
        pool.remove(link)
    assert pool.choose(BLOCKING) is links[0]
    assert (len(pool), list(pool), links[1] in pool) == (1, [links[0]], False)
    pool.moved(links[1])
    assert links[1] not in pool
