"""Views: rates and percentiles between two snapshots."""

import time
from bisect import bisect_left

import msgspec
import pytest

from tests.support.snapshots import a_snapshot
from tykpy.broker.config import BrokerConfig
from tykpy.telemetry.buckets import BOUNDS_NS
from tykpy.telemetry.snapshot import HookSeries, Snapshot, no_counts
from tykpy.telemetry.view import SAMPLES, UNKNOWN, Viewer, percentile

SECOND = 1_000_000_000
MS_BUCKET = BOUNDS_NS.index(1_000_000)
"""Of values between 500 us and 1 ms."""


def hook_series(hook: str, count: int, code: str = "OK", ms: float = 1.0) -> HookSeries:
    counts = no_counts()
    counts[MS_BUCKET] = count
    ns = int(count * ms * 1_000_000)
    return HookSeries("b.py", hook, "Pre", code, dispatch_counts=counts, dispatch_ns=ns, hook_counts=counts, hook_ns=ns)


def at(second: float, *series: HookSeries, started: float = 1_000.0) -> Snapshot:
    """Return a snapshot that was taken so long after the first one."""
    snapshot = a_snapshot(time_ns=time.monotonic_ns() - 100 * SECOND + int(second * SECOND), series=list(series))
    return msgspec.structs.replace(snapshot, started=started, taken_at=started + 100 + second)


def test_rates_are_of_the_time_between_two_snapshots() -> None:
    viewer = Viewer()
    first = viewer.see(at(0, hook_series("a", 100)))
    assert first.seconds == pytest.approx(100)
    assert first.rate == pytest.approx(1)
    view = viewer.see(at(2, hook_series("a", 120), hook_series("a", 20, "INTERNAL"), hook_series("b", 40, ms=50)))
    assert view.rate == pytest.approx(40, rel=0.01)
    assert [one.hook for one in view.hooks] == ["b", "a"], "not sorted by time"
    slow, failing = view.hooks
    assert slow.rate == pytest.approx(20, rel=0.01)
    assert slow.busy == pytest.approx(100, rel=0.01)
    assert (failing.errors, view.errors) == (50, 25)


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_percentiles_are_interpolated_within_a_bucket(part: float) -> None:
    counts = no_counts()
    counts[MS_BUCKET] = 1_000
    assert percentile(counts, part) == pytest.approx((0.5 + 0.5 * part) / 1_000)


def test_percentiles_have_limits() -> None:
    assert percentile(no_counts(), 0.5) is None
    endless = no_counts()
    endless[-1] = 1
    assert percentile(endless, 0.5) == BOUNDS_NS[-1] / SECOND


def test_a_new_broker_begins_anew() -> None:
    viewer = Viewer()
    viewer.see(at(0, hook_series("a", 5_000)))
    view = viewer.see(at(1, hook_series("a", 101), started=1_050.0))
    assert view.rate == pytest.approx(1, rel=0.01)
    assert len(view.hooks[0].rates) == 1


def test_counters_that_begin_anew_give_no_negative_rates() -> None:
    viewer = Viewer()
    viewer.see(at(0, hook_series("a", 5_000)))
    assert viewer.see(at(1, hook_series("a", 3))).rate == pytest.approx(3, rel=0.01)


def test_a_snapshot_seen_again_keeps_its_rates() -> None:
    viewer = Viewer()
    viewer.see(at(0, hook_series("a", 10)))
    last = at(1, hook_series("a", 30))
    rates = [viewer.see(last).hooks[0].rates for _ in range(3)]
    assert [len(one) for one in rates] == [2, 2, 2]
    assert viewer.see(last).stuck


def test_the_last_30_rates_are_kept_of_each_hook() -> None:
    viewer = Viewer()
    for second in range(SAMPLES + 5):
        view = viewer.see(at(second, hook_series("a", 100 + second * second)))
    assert len(view.hooks[0].rates) == SAMPLES
    assert view.hooks[0].rates == sorted(view.hooks[0].rates)


def test_breakers_and_unknown_hooks_are_named() -> None:
    broken = hook_series("hook", 1)
    broken.bundle = "hooks.py"
    nobody = HookSeries("", "", "Pre", "NOT_FOUND", dispatch_counts=[1, *no_counts()[1:]])
    view = Viewer().see(at(0, broken, nobody))
    assert {(one.hook, one.breaker) for one in view.hooks} == {("hook", "open"), (UNKNOWN, "")}


def test_calls_at_the_default_time_limit_are_not_shown_as_twice_that() -> None:
    """They end a few milliseconds after it."""
    limit = BrokerConfig().timeout
    counts = no_counts()
    counts[bisect_left(BOUNDS_NS, int((limit + 0.005) * SECOND))] = 100
    shown = percentile(counts, 0.99)
    assert shown is not None
    assert limit < shown <= 1.1 * limit
