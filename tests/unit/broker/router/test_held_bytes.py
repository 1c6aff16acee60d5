"""The bytes of dispatches that the router holds: bounded, and released however a dispatch ends."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.dispatches import object_bytes
from tests.unit.broker.router.bench import Bench
from tykpy.broker.errors import Rejection
from tykpy.broker.router.deaths import Cause, Death
from tykpy.ipc.frame import Status

SIZE = len(object_bytes("hook"))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(queue_bytes=3 * SIZE)
    yield bench
    bench.loop.close()


def test_dispatches_above_the_byte_limit_are_refused(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatches = [bench.send() for _ in range(5)]
    assert bench.router.held == 3 * SIZE
    for dispatch in dispatches[3:]:
        assert dispatch.status is Status.OVERLOADED
        assert f"dispatches of {3 * SIZE} bytes wait or run already (--queue-bytes)" in str(dispatch.outcomes[0])
    worker.finish(worker.claim())
    bench.router.receive(worker.link)
    assert bench.send().outcomes == []
    assert bench.router.held == 3 * SIZE
    assert bench.router.counters.refused == 2
    assert bench.router.rejected == {Rejection.BYTES: 2}


def test_a_single_dispatch_may_have_any_size() -> None:
    bench = Bench(queue_bytes=SIZE - 1)
    assert bench.send().outcomes == []
    assert bench.send().status is Status.OVERLOADED
    bench.loop.close()


def cancelled_in_the_queue(bench: Bench, worker: LocalWorker) -> None:
    dispatch = bench.send()
    assert bench.router.held == SIZE
    bench.router.cancel(dispatch)


def given_up(bench: Bench, worker: LocalWorker) -> None:
    bench.send()
    bench.router.give_up("no worker")


def cancelled_in_the_ring(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    bench.router.cancel(dispatch)


def answered_after_its_caller_went(bench: Bench, worker: LocalWorker) -> None:
    """Its body is held until the worker that runs it, and may read it, has answered."""
    bench.router.join(worker.link)
    dispatch = bench.send()
    request = worker.claim()
    bench.router.cancel(dispatch)
    assert bench.router.held == SIZE
    worker.finish(request)
    bench.router.receive(worker.link)


def killed_after_its_caller_went(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    worker.claim()
    bench.router.cancel(dispatch)
    die(bench, worker)


def killed_while_it_ran(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatch = bench.send()
    worker.claim()
    die(bench, worker)
    assert dispatch.status is Status.HOOK_FAILED


def run_by_another_worker(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    bench.send()
    die(bench, worker)
    assert bench.router.held == SIZE
    with local_worker(0, 2) as heir:
        bench.run_on(heir)


def past_its_deadline(bench: Bench, worker: LocalWorker) -> None:
    dispatch = bench.send(timeout_ns=1)
    bench.turn_until(lambda: bool(dispatch.outcomes))


def die(bench: Bench, worker: LocalWorker) -> None:
    channel = worker.link.channel
    bench.router.lost(worker.link, Death("the worker died", Cause.OUTSIDE, channel.drain(), channel.executing()))


WAYS_OUT = [
    cancelled_in_the_queue, given_up, cancelled_in_the_ring, answered_after_its_caller_went,
    killed_after_its_caller_went, killed_while_it_ran, run_by_another_worker, past_its_deadline,
]  # fmt: skip


@pytest.mark.parametrize("way_out", WAYS_OUT, ids=lambda one: one.__name__)
def test_completed_dispatches_hold_no_bytes(
    bench: Bench, worker: LocalWorker, way_out: Callable[[Bench, LocalWorker], None]
) -> None:
    way_out(bench, worker)
    assert (bench.router.held, bench.router.under_way) == (0, 0)
