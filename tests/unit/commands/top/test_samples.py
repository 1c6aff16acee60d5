"""Samples of a broker, as `tykpy top` takes them from shared memory."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.snapshots import a_snapshot
from tykpy.commands.errors import CommandError
from tykpy.commands.top.samples import Samples
from tykpy.telemetry.live_segment import LiveSegment
from tykpy.telemetry.snapshot import HookSeries, encode_snapshot, no_counts


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[LiveSegment]:
    one = LiveSegment.create(tmp_path)
    yield one
    one.close()


def test_a_broker_of_another_version_is_told(tmp_path: Path, segment: LiveSegment) -> None:
    """After an installation and before the upgrade of what runs."""
    series = HookSeries("a.py", "hook", "Pre", "OK")
    snapshot = a_snapshot(series=[series])
    segment.write(encode_snapshot(snapshot), 0)
    assert Samples(tmp_path).take().hooks[0].hook == "hook"
    older = msgspec.structs.replace(series, dispatch_counts=no_counts()[:-1])
    segment.write(encode_snapshot(msgspec.structs.replace(snapshot, series=[older])), 0)
    with pytest.raises(CommandError, match=r"the broker runs version 1\.2\.3 of tykpy"):
        Samples(tmp_path).take()
