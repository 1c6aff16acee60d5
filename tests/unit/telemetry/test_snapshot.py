"""Snapshots in a limited number of bytes."""

from tests.support.snapshots import a_snapshot
from tykpy.telemetry.buckets import BUCKETS
from tykpy.telemetry.snapshot import OTHER, ExampleTrace, HookSeries, decode_snapshot, encode_snapshot, shrink_snapshot


def series_with_traces() -> list[HookSeries]:
    traces = {bucket: ExampleTrace("a" * 32, 1, 1.0) for bucket in range(BUCKETS)}
    return [HookSeries("bundle", f"hook-{number}", "Pre", "OK", traces=dict(traces)) for number in range(10)]


def test_traces_are_omitted_before_series_are_merged() -> None:
    series = series_with_traces()
    whole = encode_snapshot(a_snapshot(series=series))
    assert shrink_snapshot(whole, len(whole)) is whole
    assert decode_snapshot(whole).series == series
    cut = decode_snapshot(shrink_snapshot(whole, len(whole) - 1))
    assert [(one.hook, one.traces) for one in cut.series] == [(one.hook, {}) for one in series]


def test_series_that_do_not_fit_are_counted_together() -> None:
    series = [HookSeries("bundle", f"hook{number}", "Pre", "OK") for number in range(100)]
    for number, one in enumerate(series):
        one.dispatch_counts[0], one.dispatch_ns = 100 - number, 10
    packed = shrink_snapshot(encode_snapshot(a_snapshot(series=series)), 3_000)
    assert len(packed) <= 3_000
    kept = decode_snapshot(packed).series
    names = {one.hook for one in kept}
    assert {"hook0", OTHER} <= names, "those with the most dispatches stay"
    assert "hook99" not in names
    assert sum(one.count for one in kept) == sum(range(101))
    assert sum(one.dispatch_ns for one in kept) == 1_000


def test_bundles_that_do_not_fit_are_left_out() -> None:
    snapshot = a_snapshot()
    snapshot.unloaded = {str(number): "x" * 100 for number in range(1_000)}
    packed = shrink_snapshot(encode_snapshot(snapshot), 10_000)
    assert len(packed) <= 10_000
    assert decode_snapshot(packed).unloaded == {}


def test_series_of_the_same_names_are_added_up() -> None:
    series = [HookSeries("other", "other", "Pre", "OK"), HookSeries("other", "other", "Pre", "OK")]
    for one in series:
        one.dispatch_counts[3] = 5
    (decoded,) = decode_snapshot(encode_snapshot(a_snapshot(series=series))).series
    assert decoded.dispatch_counts[3] == 10
