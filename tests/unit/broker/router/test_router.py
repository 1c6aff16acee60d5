"""The router on real channels: one outcome for each dispatch."""

import asyncio

import msgpack
import pytest

from tests.support.channels import LocalWorker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tests.unit.broker.router.bench import Bench, hook_of
from tykpy.broker.errors import DispatchError
from tykpy.ipc.frame import Kind, Packed, Status, pack_error, pack_frame


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
def test_a_worker_that_answers_nonsense_costs_its_caller_an_error_and_nobody_else(
    bench: Bench, worker: LocalWorker, payload: Packed, is_error: bool
) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    worker.channel.answer(0, worker.claim().seq, payload, is_error, 0)
    bench.router.receive(worker.link)
    assert dispatch.status is Status.INTERNAL
    assert bench.router.under_way == 0


def test_idle_returns_when_the_last_dispatch_is_settled(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send()
    worker.finish(worker.claim())
    bench.loop.call_soon(bench.router.receive, worker.link)
    bench.loop.run_until_complete(asyncio.wait_for(bench.router.idle(), 30))
    assert bench.router.under_way == 0
