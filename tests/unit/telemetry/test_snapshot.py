"""Snapshots in a limited number of bytes."""

from tests.support.snapshots import a_snapshot
from tykpy.telemetry.buckets import BUCKETS
from tykpy.telemetry.snapshot import ExampleTrace, HookSeries, decode_snapshot, encode_snapshot


def series_with_traces() -> list[HookSeries]:
    traces = {bucket: ExampleTrace("a" * 32, 1, 1.0) for bucket in range(BUCKETS)}
    return [HookSeries("bundle", f"hook-{number}", "Pre", "OK", traces=dict(traces)) for number in range(10)]


def test_traces_are_omitted_before_series_are_merged() -> None:
    series = series_with_traces()
    whole = encode_snapshot(a_snapshot(series=list(series)), 1_000_000)
    assert decode_snapshot(whole).series == series
    cut = decode_snapshot(encode_snapshot(a_snapshot(series=list(series)), len(whole) - 1))
    assert [(one.hook, one.traces) for one in cut.series] == [(one.hook, {}) for one in series]
    assert all(len(one.traces) == BUCKETS for one in series)
