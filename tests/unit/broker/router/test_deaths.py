"""What a worker's death leaves behind."""

from tests.support.channels import LocalWorker, local_worker
from tests.unit.broker.router.bench import Bench
from tykpy.broker.router.deaths import MAX_ATTEMPTS, Cause, Death
from tykpy.ipc.frame import Status


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
