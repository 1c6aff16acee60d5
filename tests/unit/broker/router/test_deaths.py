"""Deaths of workers: what becomes of their dispatches, and what is refused because it kills workers."""

from collections.abc import Callable

import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tests.unit.broker.router.bench import Bench
from tykpy.broker.errors import Rejection
from tykpy.broker.router.deaths import MAX_ATTEMPTS, Cause, Death
from tykpy.ipc.frame import Status, pack_error


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
        bench.run_on(heir)
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


def test_an_unstarted_dispatch_fails_after_several_crashes(bench: Bench) -> None:
    dispatch = bench.send()
    for generation in range(MAX_ATTEMPTS):
        assert dispatch.outcomes == []
        with local_worker(0, generation) as worker:
            bench.router.join(worker.link)
            bench.router.lost(worker.link, Death("worker 0 died", Cause.CRASH))
    assert dispatch.status is Status.HOOK_FAILED


def test_kills_from_outside_never_use_up_attempts(bench: Bench) -> None:
    dispatch = bench.send()
    for generation in range(3 * MAX_ATTEMPTS):
        with local_worker(0, generation) as worker:
            bench.router.join(worker.link)
            bench.router.lost(worker.link, Death("worker 0 was ended by SIGKILL", Cause.OUTSIDE))
    with local_worker(0, 99) as heir:
        bench.run_on(heir)
    assert dispatch.outcomes == [dispatch.body]


def test_deaths_before_the_start_do_not_use_up_the_retry(bench: Bench) -> None:
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
        bench.run_on(third)
    assert dispatch.outcomes == [dispatch.body]


def die(bench: Bench, worker: LocalWorker, cause: Cause = Cause.CRASH) -> None:
    """Let a worker die while it runs what it has claimed."""
    channel = worker.link.channel
    bench.router.lost(worker.link, Death("the worker died", cause, channel.drain(), channel.executing()))


def kill_with(bench: Bench, *hooks: str, cause: Cause = Cause.CRASH) -> list[RecordedDispatch]:
    """Run a dispatch of each hook on a worker of its own, which dies."""
    dispatches = []
    for hook in hooks:
        with local_worker() as worker:
            bench.router.join(worker.link)
            dispatches.append(bench.send(hook))
            worker.claim()
            die(bench, worker, cause)
    return dispatches


def test_a_third_dispatch_of_a_deadly_frame_is_refused(bench: Bench) -> None:
    assert [one.status for one in kill_with(bench, "deadly", "deadly")] == [Status.HOOK_FAILED] * 2
    assert bench.router.quarantine.active
    refused = bench.send("deadly")
    assert refused.status is Status.HOOK_FAILED
    assert "quarantined" in str(refused.outcomes[0])
    assert bench.router.rejected == {Rejection.QUARANTINED: 1}
    assert bench.router.counters.refused == 1
    assert bench.send("other").outcomes == []


def test_a_kill_from_outside_blames_nobody(bench: Bench) -> None:
    kill_with(bench, *["unlucky"] * 5, cause=Cause.OUTSIDE)
    assert not bench.router.quarantine.active
    assert bench.send("unlucky").outcomes == []


def test_unstarted_dispatches_are_not_blamed(bench: Bench) -> None:
    with local_worker() as worker, local_worker(0, 2) as heir:
        bench.router.join(worker.link)
        bench.send("first")
        behind = bench.send("behind")
        assert len(worker.link.in_flight) == 2
        worker.claim()
        die(bench, worker)
        bench.router.join(heir.link)
        bench.turn()
        heir.claim()
        die(bench, heir)
        assert behind.status is Status.HOOK_FAILED
    assert not bench.router.quarantine.active


def test_waiting_dispatches_of_a_deadly_frame_are_refused(bench: Bench) -> None:
    with local_worker() as first, local_worker(1, 2) as second:
        for worker in (first, second):
            bench.router.join(worker.link)
        running = [bench.send("deadly") for _ in range(2)]
        behind = [bench.send("deadly") for _ in range(2)]
        well = bench.send("other")
        for worker in (first, second):
            worker.claim()
            die(bench, worker)
    assert [one.status for one in running] == [Status.HOOK_FAILED] * 2
    assert all("quarantined" in str(one.outcomes[0]) for one in behind)
    assert well.outcomes == []
    assert (bench.router.waiting, bench.router.under_way) == (1, 1)


def test_a_quarantined_frame_that_is_taken_back_does_not_run(bench: Bench) -> None:
    with local_worker() as worker:
        bench.router.join(worker.link)
        bench.send("busy")
        late = bench.send("deadly")
        assert len(worker.link.in_flight) == 2
        worker.claim()
        for _ in range(2):
            bench.router.quarantine.blame([RecordedDispatch(object_bytes("deadly"))], Cause.CRASH)
        die(bench, worker, Cause.OUTSIDE)
    assert "quarantined" in str(late.outcomes[0])
    assert bench.router.waiting == 0


def test_only_overdue_hooks_are_blamed_for_a_hang(bench: Bench) -> None:
    for _ in range(3):
        with local_worker(threads=2) as worker:
            bench.router.join(worker.link)
            hung, neighbour = bench.send("hung"), bench.send("neighbour")
            worker.claim(0)
            worker.claim(1)
            worker.link.overdue.add(hung.seq)
            die(bench, worker, Cause.HANG)
            assert neighbour.outcomes
    assert [one["hook"] for one in bench.router.quarantine.describe()["hooks"]] == ["hung"]


def test_unstarted_dispatches_are_not_blamed_for_a_hang(bench: Bench) -> None:
    """Their worker started nothing, and was ended for that."""
    for _ in range(3):
        with local_worker() as worker:
            bench.router.join(worker.link)
            unstarted = bench.send("unstarted")
            worker.link.overdue.add(unstarted.seq)
            die(bench, worker, Cause.HANG)
    assert bench.router.quarantine.describe()["hooks"] == []


def half_open(bench: Bench) -> None:
    """Let a hook kill three workers, so that its next dispatch is let through as a trial."""
    for number in range(3):
        bench.router.quarantine.blame(
            [RecordedDispatch(object_bytes("weak") + b"\x7a\x01" + bytes([number]))], Cause.CRASH
        )
    (breaker,) = bench.router.quarantine._open.values()
    breaker.until = 0.0


def run(bench: Bench, worker: LocalWorker, _trial: RecordedDispatch) -> None:
    worker.finish(worker.claim())
    bench.router.receive(worker.link)


def run_late(bench: Bench, worker: LocalWorker, trial: RecordedDispatch) -> None:
    request = worker.claim()
    bench.router.cancel(trial)
    worker.finish(request)
    bench.router.receive(worker.link)


def raise_error(bench: Bench, worker: LocalWorker, _trial: RecordedDispatch) -> None:
    worker.channel.answer(0, worker.claim().seq, pack_error(Status.HOOK_FAILED, "it raised"), True, 1000)
    bench.router.receive(worker.link)


def cancel_prefetched(bench: Bench, _worker: LocalWorker, trial: RecordedDispatch) -> None:
    bench.router.cancel(trial)


def cancel_taken_back(bench: Bench, worker: LocalWorker, trial: RecordedDispatch) -> None:
    bench.router.leave(worker.link)
    bench.router.cancel(trial)


def find_no_hook(bench: Bench, worker: LocalWorker, _trial: RecordedDispatch) -> None:
    worker.channel.answer(0, worker.claim().seq, pack_error(Status.NOT_FOUND, "no such hook"), True, 1000)
    bench.router.receive(worker.link)


def expire_in_the_ring(bench: Bench, worker: LocalWorker, trial: RecordedDispatch) -> None:
    worker.channel._refuse(worker.claim().seq, Status.EXPIRED, "too late")
    bench.router.receive(worker.link)
    assert trial.status is Status.EXPIRED


def expire_in_the_ring_unheard(bench: Bench, worker: LocalWorker, trial: RecordedDispatch) -> None:
    request = worker.claim()
    bench.router.cancel(trial)
    worker.channel._refuse(request.seq, Status.EXPIRED, "too late")
    bench.router.receive(worker.link)


def be_killed_by_somebody(bench: Bench, worker: LocalWorker, _trial: RecordedDispatch) -> None:
    worker.claim()
    die(bench, worker, Cause.OUTSIDE)


def be_killed_by_somebody_unheard(bench: Bench, worker: LocalWorker, trial: RecordedDispatch) -> None:
    worker.claim()
    bench.router.cancel(trial)
    die(bench, worker, Cause.OUTSIDE)


@pytest.mark.parametrize("end", [run, run_late, raise_error])
def test_a_trial_that_was_run_closes_the_hook(
    bench: Bench, worker: LocalWorker, end: Callable[[Bench, LocalWorker, RecordedDispatch], None]
) -> None:
    half_open(bench)
    bench.router.join(worker.link)
    end(bench, worker, bench.send("weak"))
    assert bench.router.quarantine.describe()["hooks"] == []


@pytest.mark.parametrize(
    "end",
    [
        cancel_prefetched,
        cancel_taken_back,
        find_no_hook,
        expire_in_the_ring,
        expire_in_the_ring_unheard,
        be_killed_by_somebody,
        be_killed_by_somebody_unheard,
    ],
)
def test_a_trial_that_was_not_run_proves_nothing(
    bench: Bench, worker: LocalWorker, end: Callable[[Bench, LocalWorker, RecordedDispatch], None]
) -> None:
    half_open(bench)
    bench.router.join(worker.link)
    end(bench, worker, bench.send("weak"))
    assert [one["hook"] for one in bench.router.quarantine.describe()["hooks"]] == ["weak"]
    trial, other = bench.send("weak"), bench.send("weak")
    assert trial.outcomes == []
    assert "is being tried with one dispatch" in str(other.outcomes[0])
