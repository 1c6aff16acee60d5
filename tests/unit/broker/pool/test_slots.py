"""What is counted for a slot, whoever has it."""

from typing import cast

from tests.support.channels import LocalWorker, local_worker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tykpy.broker.pool.process import WorkerProcess, describe_end
from tykpy.broker.pool.slots import FAILURES, RestartReason, SlotTotals
from tykpy.broker.pool.worker import Worker, WorkerOwner
from tykpy.broker.router.hook_info import HookInfo
from tykpy.broker.router.hook_stats import AllHookStats


def worker_of(local: LocalWorker) -> Worker:
    worker = Worker(0, 1, local.link.channel, cast(WorkerProcess, None), cast(WorkerOwner, None))
    worker.link = local.link
    return worker


def busy(local: LocalWorker) -> int:
    """Have a worker answer one dispatch; return how long it was busy in ns."""
    dispatch = RecordedDispatch(object_bytes("hook"))
    dispatch.hook = HookInfo(AllHookStats().unknown)
    local.link.send(dispatch, 1)
    local.link.channel.ring()
    began = local.link.progress_ns
    local.finish(local.claim())
    (answer,) = local.link.receive()
    local.link.finish(answer.seq)
    return local.link.progress_ns - began


def test_counts_of_a_slot_go_on_with_its_next_worker() -> None:
    totals = SlotTotals()
    with local_worker() as first:
        worker = worker_of(first)
        time = busy(first)
        first.channel.show_log_lost(3)
        totals.note_end(worker, 2**62)
    with local_worker() as second:
        worker = worker_of(second)
        time += busy(second)
        second.channel.show_log_lost(4)
        (slot,) = totals.describe([worker], 2**62)
        assert (slot.handled, slot.busy_ns) == (2, time), "an idle worker is not busy"
        assert totals.log_lost([worker]) == 7


def test_a_worker_is_busy_while_it_has_a_dispatch() -> None:
    with local_worker() as local:
        dispatch = RecordedDispatch(object_bytes("hook"))
        dispatch.hook = HookInfo(AllHookStats().unknown)
        local.link.send(dispatch, 1)
        assert worker_of(local).busy_ns(local.link.progress_ns + 5) == 5


def test_restarts_are_counted_by_reason() -> None:
    totals = SlotTotals()
    for reason in RestartReason:
        totals.note_restart(1, reason)
    assert totals.restarts(*FAILURES) == 3
    assert totals.describe([], 0)[0].restarts == dict.fromkeys(("crash", "hang", "oom", "recycle", "reload"), 1)


def test_only_a_kill_for_lack_of_memory_says_so() -> None:
    assert describe_end(-9, out_of_memory=True).out_of_memory
    assert not describe_end(-9).out_of_memory
