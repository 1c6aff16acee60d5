"""The file of a recording: what was written is read, a torn tail is told, garbage is refused."""

import io
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.cli import main
from tykpy.traffic.errors import RecordingError
from tykpy.traffic.recording import MAGIC, VERSION, CallRecord, Recording, RecordingHeader, RecordingWriter, create

HEADER = RecordingHeader(VERSION, "1.0", 1.5, 0.25, ("a/b",), ("cookie",))


OBJECT = Object(hook_name="a").SerializeToString()


def call(hook: str, *, event: bool = False, request: bytes = OBJECT, answer: bytes = OBJECT) -> CallRecord:
    return CallRecord(2.5, "mine", hook, event, request, answer, "OK", "", 30, 20)


def written(*calls: CallRecord, dropped: int = 0, end: bool = True) -> bytes:
    file = io.BytesIO()
    writer = RecordingWriter(file, HEADER)
    for each in calls:
        writer.call(each)
    if dropped:
        writer.drop(dropped)
    if end:
        writer.end("done")
    assert writer.size == len(file.getvalue())
    return file.getvalue()


def opened(tmp_path: Path, data: bytes) -> Recording:
    (tmp_path / "t").write_bytes(data)
    return Recording(tmp_path / "t")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    with closing(opened(tmp_path, written(call("a"), call("b"), dropped=3))) as recording:
        assert recording.header == HEADER
        assert list(recording.calls()) == [call("a"), call("b")]
        assert recording.end is not None
        assert (recording.end.calls, recording.end.dropped, recording.end.reason) == (2, 3, "done")
        assert recording.dropped == 3


def test_a_cut_file_loses_its_last_record_only(tmp_path: Path) -> None:
    whole, first = written(call("a"), call("b"), end=False), len(written(call("a"), end=False))
    for length in range(first, len(whole)):
        with closing(opened(tmp_path, whole[:length])) as recording:
            assert list(recording.calls()) == [call("a")]
            assert recording.end is None


def test_a_missing_header_is_told(tmp_path: Path) -> None:
    shortest = len(written(end=False))
    for length in range(len(MAGIC), shortest):
        with pytest.raises(RecordingError, match="header is missing or cut off"):
            opened(tmp_path, written()[:length])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"tykpy recordinG\n" + b"x" * 100])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RecordingError, match="not a recording"):
        opened(tmp_path, data)


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    begin = written(end=False)
    for garbage in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc0", b"\x00\x00\x00\x02\x81\xa1"):
        with (
            closing(opened(tmp_path, begin + garbage)) as recording,
            pytest.raises(RecordingError, match=str(len(begin))),
        ):
            list(recording.calls())


@pytest.mark.parametrize(
    "damaged",
    [call("b", request=b"\xff"), call("b", answer=OBJECT[:-1] + b"\xff"), call("b", event=True, request=b"\xff")],
    ids=["request", "answer", "event"],
)
def test_messages_that_cannot_be_read_are_told(tmp_path: Path, damaged: CallRecord) -> None:
    place = len(written(call("a"), end=False))
    with closing(opened(tmp_path, written(call("a"), damaged))) as recording:
        calls = recording.calls()
        assert next(calls) == call("a")
        with pytest.raises(RecordingError, match=f"damaged at byte {place}: "):
            next(calls)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    RecordingWriter(file, RecordingHeader(VERSION + 1, "9.0", 0, 1, (), ()))
    with pytest.raises(RecordingError, match=r"format 2 of tykpy 9\.0"):
        opened(tmp_path, file.getvalue())


@pytest.mark.parametrize("started", [1e300, -1e18, float("nan"), float("inf")])
def test_a_time_that_cannot_be_is_shown_as_such(tmp_path: Path, started: float) -> None:
    RecordingWriter((file := io.BytesIO()), msgspec.structs.replace(HEADER, started=started)).end("done")
    (tmp_path / "t").write_bytes(file.getvalue())
    done = CliRunner().invoke(main, ["record", "show", str(tmp_path / "t")])
    assert (done.exit_code, "since an impossible time" in done.output) == (0, True)


def test_every_call_is_one_line_on_a_terminal(tmp_path: Path) -> None:
    """Names, URLs and errors come from clients, and the rest from whoever wrote the file."""
    hostile = "x\n     2 mine/b OK\x1b[2J\u2028"
    request = Object(hook_name=hostile)
    request.request.url = request.request.method = hostile
    file = io.BytesIO()
    writer = RecordingWriter(file, RecordingHeader(VERSION, hostile, 1.5, 1, (hostile,), (hostile,)))
    writer.call(CallRecord(1, hostile, hostile, False, request.SerializeToString(), b"", hostile, hostile, 1, 1))
    writer.end(hostile)
    (tmp_path / "t").write_bytes(file.getvalue())
    done = CliRunner().invoke(main, ["record", "show", str(tmp_path / "t")])
    assert len(done.output.splitlines()) == 4
    assert "\x1b" not in done.output


def test_only_the_owner_may_read_a_new_file(tmp_path: Path) -> None:
    create(tmp_path / "t").close()
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600
    with pytest.raises(RecordingError, match="exists"):
        create(tmp_path / "t")
    with pytest.raises(RecordingError, match="No such file"):
        create(tmp_path / "no" / "t")
