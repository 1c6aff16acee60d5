"""A fault of the broker itself fails the dispatch or worker that it came from, and no other."""

import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tests.unit.broker.router.bench import Bench
from tykpy.broker.errors import DispatchError
from tykpy.broker.router.clock import Overload
from tykpy.broker.router.deaths import Cause, Death, Quarantine
from tykpy.broker.router.link import Link
from tykpy.broker.router.outcomes import Outcomes
from tykpy.ipc.frame import Status
from tykpy.workers.dispatch.failure import error_frame

SOON_NS = 20_000_000


class Unsendable(RecordedDispatch):
    """A dispatch whose front end cannot send anything."""

    __slots__ = ()

    def answer(self, kind: int, body: bytes) -> None:
        super().answer(kind, body)
        raise LookupError

    def fail(self, error: DispatchError) -> None:
        super().fail(error)
        raise LookupError


def fail(*_arguments: object) -> None:
    raise LookupError


def fail_first(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Let the first call of a method raise."""
    method, calls = getattr(owner, name), list[int]()

    def replaced(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise LookupError
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, replaced)


def send(bench: Bench, kind: type[RecordedDispatch] = Unsendable, timeout_ns: int | None = None) -> RecordedDispatch:
    dispatch = kind(object_bytes("hook"), timeout_ns=timeout_ns)
    bench.router.dispatch(dispatch)
    bench.turn()
    return dispatch


def is_empty(bench: Bench) -> bool:
    router = bench.router
    return (router.under_way, router.waiting, router.held) == (0, 0, 0)


def test_answers_behind_one_that_cannot_be_sent_are_sent(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    dispatches = [send(bench), bench.send(), send(bench), bench.send()]
    for _ in dispatches:
        worker.finish(worker.claim())
    bench.router.receive(worker.link)
    assert [len(one.outcomes) for one in dispatches] == [1] * 4
    assert is_empty(bench)


def test_an_answer_that_cannot_be_handled_fails_its_call(
    bench: Bench, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tykpy.broker.router.outcomes.body_of", fail)
    bench.router.join(worker.link)
    dispatches = [bench.send(), bench.send()]
    for _ in dispatches:
        worker.finish(worker.claim())
    bench.router.receive(worker.link)
    assert [one.status for one in dispatches] == [Status.INTERNAL] * 2
    assert is_empty(bench)


def test_one_bad_answer_does_not_drop_the_batch(
    bench: Bench, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.router.join(worker.link)
    dispatches = [bench.send(), bench.send(), bench.send()]
    for _ in dispatches:
        worker.finish(worker.claim())
    fail_first(monkeypatch, Outcomes, "answer")
    bench.router.receive(worker.link)
    assert [len(one.outcomes) for one in dispatches] == [0, 1, 1]


def test_a_death_completes_all_although_one_fails(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    answered, other, running, waiting = send(bench), bench.send(), send(bench), bench.send()
    for _ in range(2):
        worker.finish(worker.claim())
    worker.claim()
    channel = worker.link.channel
    bench.router.lost(worker.link, Death("worker 0 died", answers=channel.drain(), executing=channel.executing()))
    assert [len(one.outcomes) for one in (answered, other, running, waiting)] == [1, 1, 1, 0]
    assert bench.router.waiting == 1


def test_blame_that_fails_does_not_keep_callers_waiting(
    bench: Bench, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quarantine, "blame", fail)
    bench.router.join(worker.link)
    running, waiting = bench.send(), bench.send()
    worker.claim()
    bench.router.lost(worker.link, Death("worker 0 died", Cause.CRASH, executing=worker.link.channel.executing()))
    assert running.status is Status.HOOK_FAILED
    assert (waiting.outcomes, bench.router.waiting) == ([], 1)


def test_a_dispatch_that_cannot_be_redispatched_fails(
    bench: Bench, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.router.join(worker.link)
    dispatches = [bench.send(), bench.send()]
    bench.router.quarantine.active = True
    fail_first(monkeypatch, Quarantine, "check")
    bench.router.lost(worker.link, Death("worker 0 died"))
    assert [len(one.outcomes) for one in dispatches] == [0, 1]
    assert dispatches[1].status is Status.INTERNAL
    assert bench.router.waiting == 1


def test_a_dispatch_that_cannot_be_given_to_a_worker_fails(
    bench: Bench, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_first(monkeypatch, Link, "send")
    dispatches = [bench.send(), bench.send()]
    bench.router.join(worker.link)
    bench.turn()
    assert dispatches[0].status is Status.INTERNAL
    worker.finish(worker.claim())
    bench.router.receive(worker.link)
    assert dispatches[1].outcomes == [dispatches[1].body]
    assert is_empty(bench)


def test_a_doorbell_that_fails_does_not_silence_others(bench: Bench, worker: LocalWorker) -> None:
    with local_worker(1, 2) as other:
        for one in (worker, other):
            bench.router.join(one.link)
        first, second = (RecordedDispatch(object_bytes("hook")) for _ in range(2))
        bench.router.dispatch(first)
        assert isinstance(first.link, Link)
        first.link.channel.ring = fail  # type: ignore[method-assign]
        bench.router.dispatch(second)
        bench.turn()
        assert second.link is not None
        healthy = other if second.link is other.link else worker
        healthy.finish(healthy.claim())
        bench.router.receive(healthy.link)
        assert second.outcomes == [second.body]


@pytest.mark.parametrize("times", [1, 3])
def test_deadlines_survive_callers_that_cannot_be_answered(bench: Bench, times: int) -> None:
    dispatches = [send(bench, timeout_ns=SOON_NS) for _ in range(times)]
    bench.turn_until(lambda: all(one.outcomes for one in dispatches))
    later = bench.send(timeout_ns=SOON_NS)
    bench.turn_until(lambda: bool(later.outcomes))
    assert {one.status for one in (*dispatches, later)} == {Status.EXPIRED}


def test_deadlines_survive_a_fault_in_the_overload_check(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Overload, "look", fail)
    for _ in range(2):
        dispatch = bench.send(timeout_ns=SOON_NS)
        bench.turn_until(lambda expired=dispatch: bool(expired.outcomes))  # type: ignore[misc]
        assert dispatch.status is Status.EXPIRED


def test_a_fault_at_one_worker_does_not_hide_others(bench: Bench, worker: LocalWorker) -> None:
    with local_worker(1, 2) as other:
        for one in (worker, other):
            bench.router.join(one.link)
            bench.send()
        worker.link.channel.executing = fail  # type: ignore[method-assign, assignment]
        bench.turn_until(lambda: ("silent", other.link) in bench.in_trouble)


def test_all_waiting_dispatches_fail_when_no_worker_will_come(bench: Bench) -> None:
    dispatches = [send(bench), bench.send(), send(bench)]
    bench.router.give_up("no worker can start")
    assert [one.status for one in dispatches] == [Status.UNAVAILABLE] * 3
    assert is_empty(bench)


@pytest.mark.parametrize(
    ("error", "faults"), [(TypeError("'NoneType' object is not callable"), [1, 2, 2, 1, 1]), (MemoryError(), [0] * 5)]
)
def test_faults_in_a_worker_count_while_they_are_in_a_row(bench: Bench, error: Exception, faults: list[int]) -> None:
    """But not lack of memory: how large a call is, its client decides."""
    worker = LocalWorker()
    bench.router.join(worker.link)
    counted = []
    for is_error in (True, True, False, True, False):
        bench.send()
        request = worker.claim()
        payload = error_frame(error) if is_error else request.payload
        worker.channel.answer(0, request.seq, payload, is_error, 0)
        bench.router.receive(worker.link)
        counted.append(worker.link.faults)
    worker.close()
    assert counted == faults
