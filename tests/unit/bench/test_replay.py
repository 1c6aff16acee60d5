"""A recording becomes a scenario: chosen within bounds, in its proportions, for the new bundle."""

from collections import Counter
from pathlib import Path

import pytest

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.errors import BenchError
from tykpy.bench.replay import CallSample, replay_scenario
from tykpy.bench.scenarios import Scenario
from tykpy.commands.errors import CommandError
from tykpy.commands.objects import bundle_hash
from tykpy.traffic.recording import VERSION, CallRecord, RecordingHeader, RecordingWriter, create


def call(
    url: str, *, hook: str = "greet", bundle: str = "mine", code: str = "OK", event: bool = False
) -> CallRecord:  # fmt: skip
    obj = Object(hook_name=hook, request={"url": url}, spec={"bundle_hash": "as recorded", "APIID": "a"})
    return CallRecord(2.5, bundle, hook, event, obj.SerializeToString(), b"", code, "", 30, 20)


def scenario(folder: Path, *calls: CallRecord, hook: str | None = None, recorded: str | None = None) -> Scenario:
    """Replay these calls with the bundle `new.py` of a running broker."""
    with create(folder / "r") as file:
        writer = RecordingWriter(file, RecordingHeader(VERSION, "1", 1.5, 1.0, (), ()))
        for each in calls:
            writer.call(each)
    return replay_scenario(folder / "r", Path("new.py"), hook, recorded, needs_files=False)


def urls(made: Scenario) -> list[str]:
    return sorted(Object.FromString(message).request.url for message in made.messages)


def test_recorded_calls_are_sent_to_the_new_bundle(tmp_path: Path) -> None:
    made = scenario(tmp_path, call("/a"), call("/b"), call("/a"))
    assert urls(made) == ["/a", "/a", "/b"]
    specs = [Object.FromString(message).spec for message in made.messages]
    assert all(spec == {"bundle_hash": bundle_hash("new.py"), "APIID": "a"} for spec in specs)
    assert made.note == "sending 3 recorded calls of mine in turn"


def test_failed_calls_and_events_are_left_out(tmp_path: Path) -> None:
    made = scenario(tmp_path, call("/a"), call("/b", code="INTERNAL"), call("/c", event=True))
    assert urls(made) == ["/a"]
    assert made.note.endswith("; 1 failed call and 1 event left out")


def test_one_hook_or_bundle_can_be_chosen(tmp_path: Path) -> None:
    calls = [call("/a"), call("/b", hook="check"), call("/c", bundle="other")]
    made = scenario(tmp_path, *calls, hook="check", recorded="mine")
    assert (made.name, urls(made)) == ("check", ["/b"])
    assert made.note == "sending 1 recorded call of mine/check in turn"


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([call("/a", code="INTERNAL")], "no recorded calls of mine can be sent; 1 failed call left out"),
        ([call("/a"), call("/b", bundle="other")], "which recorded bundle does new.py replace"),
        ([CallRecord(1.0, "mine", "greet", False, b"garbage", b"", "OK", "", 1, 1)], "damaged at byte "),
    ],
)
def test_what_cannot_be_sent_is_an_error(calls: list[CallRecord], reason: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=reason):
        scenario(tmp_path, *calls)


def test_a_missing_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no such folder or file"):
        replay_scenario(tmp_path / "r", tmp_path / "none", None, None, needs_files=True)


def test_long_recordings_are_sampled_in_proportion() -> None:
    sample, same = CallSample(max_calls=1000), CallSample(max_calls=1000)
    for number in range(9000):
        one = call("/often" if number < 6000 else "/seldom")
        sample.add(one)
        same.add(one)
    requests = sample.requests()
    assert (len(requests), sample.suitable) == (1000, 9000)
    assert requests == same.requests()
    for part in (requests[:500], requests[500:]):
        counts = Counter(Object.FromString(request).request.url for request in part)
        assert 1.5 < counts["/often"] / counts["/seldom"] < 2.5


def test_large_recordings_are_bounded_in_bytes() -> None:
    sample = CallSample(max_bytes=10_000)
    for _ in range(100):
        sample.add(call("/" + "x" * 1000))
    assert 8000 < sum(map(len, sample.requests())) <= 10_000
