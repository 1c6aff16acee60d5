"""Series of hooks: what is counted, under which names, and how many there may be."""

import pytest

from tests.support.channels import LocalWorker
from tests.support.peers.dispatches import RecordedDispatch
from tests.unit.broker.router.bench import Bench
from tykpy.broker.codes import GrpcCode
from tykpy.broker.router import hook_stats
from tykpy.broker.router.hook_stats import EVENT, AllHookStats
from tykpy.telemetry.buckets import BOUNDS_NS
from tykpy.telemetry.snapshot import HookSeries

OK = int(GrpcCode.OK)


def counted(stats: AllHookStats) -> dict[tuple[str, str, str, str], int]:
    return {(one.bundle, one.hook, one.hook_type, one.code): one.count for one in stats.series()}


def only(stats: AllHookStats) -> HookSeries:
    (series,) = stats.series()
    return series


def test_a_time_equal_to_a_bound_is_below_it() -> None:
    stats = AllHookStats()
    hook = stats.of(("bundle", "hook"))
    for total in (BOUNDS_NS[0], BOUNDS_NS[0] + 1, BOUNDS_NS[-1] + 1):
        hook.count(1, OK, total, 0)
    series = only(stats)
    assert (series.dispatch_counts[:2], series.dispatch_counts[-1]) == ([1, 1], 1)
    assert series.hook_counts[0] == 3


def test_waiting_is_what_the_hook_did_not_take() -> None:
    stats = AllHookStats()
    stats.of(("bundle", "hook")).count(1, OK, 1_000_000, 400_000)
    series = only(stats)
    assert (series.dispatch_ns, series.hook_ns, series.wait_ns) == (1_000_000, 400_000, 600_000)


def test_a_dispatch_that_was_not_run_has_no_hook_time() -> None:
    stats = AllHookStats()
    stats.of(("bundle", "hook")).count(1, GrpcCode.UNAVAILABLE, 1_000, None)
    series = only(stats)
    assert (sum(series.dispatch_counts), sum(series.wait_counts), sum(series.hook_counts)) == (1, 1, 0)


def test_a_worker_cannot_claim_more_time_than_passed() -> None:
    stats = AllHookStats()
    stats.of(("bundle", "hook")).count(1, OK, 1_000, 2**47)
    assert (only(stats).hook_ns, only(stats).wait_ns) == (1_000, 0)


def test_hook_types_of_peers_make_no_series_of_their_own() -> None:
    stats = AllHookStats()
    hook = stats.of(("bundle", "hook"))
    for hook_type in (-5, 6, 2**31 - 1, 0):
        hook.count(hook_type, OK, 1, None)
    assert counted(stats) == {("bundle", "hook", "Unknown", "OK"): 4}
    assert len(hook.series) == 1
    hook.count(EVENT, OK, 1, None)
    assert counted(stats)["bundle", "hook", "Event", "OK"] == 1


def test_more_hooks_than_fit_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_stats, "MAX_SERIES", 2)
    stats = AllHookStats()
    for number in range(4):
        for _ in range(10):
            stats.of(("bundle", f"hook{number}")).count(1, OK, 1, None)
    assert counted(stats) == {
        ("bundle", "hook0", "Pre", "OK"): 10,
        ("bundle", "hook1", "Pre", "OK"): 10,
        ("other", "other", "Pre", "OK"): 20,
    }
    assert stats.dropped == 2


def test_hooks_that_are_gone_make_room_only_if_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_stats, "MAX_SERIES", 2)
    stats = AllHookStats()
    stats.of(("bundle", "gone")).count(1, OK, 1, None)
    stats.keep({("bundle", "new")})
    stats.of(("bundle", "gone")).count(1, OK, 1, None)
    assert counted(stats) == {("bundle", "gone", "Pre", "OK"): 2}, "it continues if it comes back"
    for name in ("new", "newer"):
        stats.of(("bundle", name)).count(1, OK, 1, None)
    stats.keep({("bundle", "new"), ("bundle", "newer")})
    stats.of(("bundle", "newer")).count(1, OK, 1, None)
    assert counted(stats) == {
        ("bundle", "new", "Pre", "OK"): 1,
        ("bundle", "newer", "Pre", "OK"): 1,
        ("other", "other", "Pre", "OK"): 1,
    }


def test_names_of_peers_never_become_labels(bench: Bench, worker: LocalWorker) -> None:
    bench.router.join(worker.link)
    for name in ("a", "b\n", "x" * 10_000):
        bench.send(name)
        worker.finish(worker.claim())
        bench.router.receive(worker.link)
    bench.router.dispatch(RecordedDispatch(b"\xff"))
    assert counted(bench.router.hooks.stats) == {
        ("", "", "Pre", "OK"): 3,
        ("", "", "Unknown", "INVALID_ARGUMENT"): 1,
    }
