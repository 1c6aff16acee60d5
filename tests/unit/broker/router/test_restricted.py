"""Hooks that only some workers have loaded: which worker gets their dispatches, and how they wait."""

import msgpack
import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tests.unit.broker.router.bench import Bench, hook_of
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.broker.router.clock import STANDING_NS
from tykpy.broker.router.deaths import Death
from tykpy.broker.router.hook_table import UNRESTRICTED, HookKey, Restrictions
from tykpy.broker.router.link import Link
from tykpy.ipc.frame import Kind, Status

ONLY = ("h", "only")


def restrict(bench: Bench, *links: Link, keys: tuple[HookKey, ...] = (ONLY,)) -> None:
    bench.router.learn([], Restrictions(dict.fromkeys(keys, frozenset(links)), {}))


def send(bench: Bench, name: str, bundle: str = "h", **options: int) -> RecordedDispatch:
    dispatch = RecordedDispatch(object_bytes(name, options.pop("hook_type", 1), bundle), **options)
    bench.router.dispatch(dispatch)
    bench.turn()
    return dispatch


def test_a_dispatch_waits_for_the_worker_that_has_its_hook(bench: Bench, worker: LocalWorker) -> None:
    with local_worker(1, 2) as other:
        restrict(bench, other.link)
        bench.router.join(worker.link)
        waiting = send(bench, "only")
        assert (worker.link.in_flight, bench.router.waiting) == ({}, 1)
        anywhere = send(bench, "anywhere")
        assert list(worker.link.in_flight.values()) == [anywhere]
        bench.router.join(other.link)
        assert list(other.link.in_flight.values()) == [waiting]


def test_waiting_dispatches_are_regrouped_when_less_is_loaded(bench: Bench, worker: LocalWorker) -> None:
    with local_worker(1, 2) as other:
        first, second = send(bench, "only"), send(bench, "anywhere")
        restrict(bench, other.link)
        bench.router.join(worker.link)
        assert (list(worker.link.in_flight.values()), first.waiting) == ([second], True)
        bench.router.learn([], UNRESTRICTED)
        worker.finish(worker.claim())
        bench.router.receive(worker.link)
        assert list(worker.link.in_flight.values()) == [first]


def test_the_oldest_goes_first_and_urgent_ones_before(bench: Bench, worker: LocalWorker) -> None:
    restrict(bench, worker.link)
    names = ["only", "anywhere", "only", "auth"]
    for name in names:
        send(bench, name, hook_type=4 if name == "auth" else 1)
    bench.router.join(worker.link)
    seen = []
    while worker.link.in_flight:
        bench.turn()
        request = worker.claim()
        seen.append(hook_of(request))
        worker.finish(request)
        bench.router.receive(worker.link)
    order = ["auth", "only", "anywhere", "only"]
    assert seen == [object_bytes(name, 4 if name == "auth" else 1, "h") for name in order]


def test_dispatches_of_a_dead_worker_wait_for_their_hook(bench: Bench, worker: LocalWorker) -> None:
    with local_worker(1, 2) as other, local_worker(0, 3) as heir:
        restrict(bench, worker.link)
        bench.router.join(worker.link)
        bench.router.join(other.link)
        unstarted = send(bench, "only")
        bench.router.lost(worker.link, Death("it died"))
        assert (unstarted.waiting, other.link.in_flight) == (True, {})
        restrict(bench, heir.link)
        bench.router.join(heir.link)
        assert list(heir.link.in_flight.values()) == [unstarted]


def test_an_expiry_says_that_no_worker_has_the_bundle(bench: Bench, worker: LocalWorker) -> None:
    restrict(bench)
    bench.router.join(worker.link)
    waiting = send(bench, "only", timeout_ns=1)
    bench.turn_until(lambda: waiting.completed)
    assert waiting.status is Status.EXPIRED
    assert "no worker that is ready has loaded its bundle" in str(waiting.outcomes[0])


def test_cancelled_dispatches_leave_the_queue(bench: Bench, worker: LocalWorker) -> None:
    restrict(bench)
    bench.router.join(worker.link)
    gone, other = send(bench, "only"), send(bench, "only")
    bench.router.cancel(gone)
    assert bench.router.waiting == 1
    restrict(bench, worker.link)
    assert list(worker.link.in_flight.values()) == [other]


def test_restricted_hooks_leave_half_of_the_queue_to_others(worker: LocalWorker) -> None:
    bench = Bench(queue_size=4)
    restrict(bench)
    waiting = [send(bench, "only") for _ in range(3)]
    assert [one.waiting for one in waiting] == [True, True, False]
    assert waiting[2].status is Status.OVERLOADED
    assert send(bench, "anywhere").waiting
    bench.loop.close()


def test_a_standing_queue_of_one_group_sheds_no_others(worker: LocalWorker) -> None:
    """Groups are overloaded separately; a group without a ready worker never is."""
    bench = Bench(queue_wait_ns=1)
    with local_worker(1, 2) as other, local_worker(2, 3) as none:
        bench.router.learn(
            [], Restrictions({ONLY: frozenset({worker.link}), ("h", "none"): frozenset({none.link})}, {})
        )
        for link in (worker.link, other.link):
            bench.router.join(link)
        send(bench, "only", timeout_ns=10 * STANDING_NS)
        shed, waiting = send(bench, "only"), send(bench, "none")
        bench.turn_until(lambda: shed.completed)
        burst = [send(bench, "anywhere") for _ in range(2)]
        bench.turn_until(lambda: bench.router.counters.shed >= 1)
        assert shed.status is Status.OVERLOADED
        assert (waiting.completed, burst[0].completed, burst[1].completed) == (False, False, False)
    bench.loop.close()


@pytest.mark.parametrize("key", [ONLY, ("", "only"), ("h", "*")])
def test_a_hook_may_be_named_in_several_ways(bench: Bench, worker: LocalWorker, key: HookKey) -> None:
    restrict(bench, keys=(key,))
    bench.router.join(worker.link)
    assert send(bench, key[1], key[0]).waiting
    assert not send(bench, "other", key[0]).waiting


@pytest.mark.parametrize("kind", [Kind.EVENT, Kind.EVENT_MAP])
def test_events_go_to_workers_that_have_the_handler(bench: Bench, worker: LocalWorker, kind: Kind) -> None:
    def event(name: str) -> RecordedDispatch:
        payload = f'{{"handler_name": "{name}"}}'
        body = Event(payload=payload).SerializeToString() if kind is Kind.EVENT else msgpack.packb({"payload": payload})
        dispatch = RecordedDispatch(body, kind)
        bench.router.dispatch(dispatch)
        return dispatch

    bench.router.learn([], Restrictions({}, {"on_it": frozenset()}))
    bench.router.join(worker.link)
    assert event("on_it").waiting
    assert not event("on_other").waiting


def test_async_hooks_wait_in_a_lane_of_their_own(bench: Bench, worker: LocalWorker) -> None:
    hooks = [{"name": "only", "is_async": True}]
    bench.router.learn([{"hashes": ["h"], "hooks": hooks}], Restrictions({ONLY: frozenset({worker.link})}, {}))
    bench.router.join(worker.link)
    running = send(bench, "anywhere")
    dispatches = [send(bench, "only") for _ in range(2)]
    assert list(worker.link.in_flight.values()) == [running, *dispatches]
