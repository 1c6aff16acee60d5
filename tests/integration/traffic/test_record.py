"""`tykpy record` beside a running broker."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, running_broker, wait_until
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.errors import RpcError
from tykpy.broker.grpc.wire import GrpcCallError
from tykpy.broker.observe import recorder
from tykpy.traffic.recording import CallRecord, Recording

HOOKS = """
import os
from tyk.decorators import *

@Pre
def copies(request, session, spec):
    request.add_header("X-Copy", request.get_header("Authorization") or "")
    return request, session

@Post
def raises(request, session, spec):
    raise ValueError(request.get_header("Authorization"))

@Pre(timeout=30)
def ends(request, session, spec):
    os._exit(1)

@Event
def seen(event, spec):
    pass
"""
SECRET = "a-secret-of-a-client"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_broker(tmp_path_factory.mktemp("broker"), workers=2, files={"hooks.py": HOOKS}) as running:
        yield running


@contextmanager
def recording(broker: RunningBroker, file: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Run `tykpy record` during the block, then end it with Ctrl-C."""
    command = [TYKPY, "record", "-o", str(file), "--runtime-dir", str(broker.runtime), *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "recording into" in process.stderr.readline()
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) in (0, -signal.SIGKILL), process.stderr.read()
        finally:
            process.kill()


def ended(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TYKPY, "record", *flags], capture_output=True, text=True, check=False, timeout=PATIENCE)


def calls_in(file: Path) -> list[CallRecord]:
    with closing(Recording(file)) as found:
        return list(found.calls())


def record_until(file: Path, calls: int) -> None:
    wait_until(lambda: len(calls_in(file)) >= calls, lambda: f"{len(calls_in(file))} calls in the recording")


def test_calls_are_recorded_without_their_secrets(broker: RunningBroker, tmp_path: Path) -> None:
    file = tmp_path / "t"
    with recording(broker, file, "--redact", "$.pin,x-mine") as process:
        broker.call(
            "copies", headers=[("Authorization", f"Bearer {SECRET}"), ("X-Mine", "mine")], body=b'{"pin": 1234567}'
        )
        with pytest.raises(GrpcCallError, match=SECRET):
            broker.call("raises", hook_type="Post", headers=[("Authorization", SECRET)])
        with pytest.raises(GrpcCallError):
            broker.call("ends")
        with pytest.raises(GrpcCallError, match="missing"):
            broker.call("missing")
        record_until(file, 4)
        process.send_signal(signal.SIGINT)
        assert "4 calls, 0 dropped" in process.communicate(timeout=PATIENCE)[0]
    copied, raised, ended, missing = calls_in(file)
    answer = Object.FromString(copied.answer)
    assert (copied.bundle, copied.hook, copied.code, copied.event) == ("hooks.py", "copies", "OK", False)
    assert answer.request.set_headers["X-Copy"] == answer.request.headers["Authorization"]
    assert copied.hook_us is not None
    assert copied.hook_us <= copied.dispatch_us
    assert (raised.code, raised.answer) == ("INTERNAL", b"")
    assert "hook raises of bundle hooks.py failed: ValueError: redacted-" in raised.message
    assert (ended.hook, ended.answer) == ("ends", b"")
    assert (missing.bundle, missing.code) == ("", "NOT_FOUND")
    data = file.read_bytes()
    assert not any(secret in data for secret in (SECRET.encode(), b"1234567", b'"mine"'))
    assert file.stat().st_mode & 0o077 == 0


def test_show_prints_lines_and_json(broker: RunningBroker, tmp_path: Path) -> None:
    file = tmp_path / "t"
    with recording(broker, file):
        broker.call("copies", url="/orders?token=abcdefgh", body=os.urandom(200_000).hex().encode())
        record_until(file, 1)
    shown = subprocess.run([TYKPY, "record", "show", str(file)], capture_output=True, text=True, check=True)
    assert "100% of all hooks, since" in shown.stdout
    assert "hooks.py/copies Pre GET /orders?token=redacted-" in shown.stdout
    assert "1 call, 0 dropped: it was ended by hand" in shown.stdout
    whole = subprocess.run([TYKPY, "record", "show", "--json", str(file)], capture_output=True, text=True, check=True)
    (call,) = map(json.loads, whole.stdout.splitlines())
    assert call["request"]["request"]["method"] == "GET"
    assert call["answer"]["hook_name"] == "copies"
    file.write_bytes(file.read_bytes()[:-5])
    shown = subprocess.run([TYKPY, "record", "show", str(file)], capture_output=True, text=True, check=True)
    assert "cut off" in shown.stderr


def test_only_chosen_hooks_are_recorded(broker: RunningBroker, tmp_path: Path) -> None:
    for number, name in enumerate(("copies", "hooks.py/copies")):
        file = tmp_path / f"t{number}"
        with recording(broker, file, "--hook", name):
            with pytest.raises(GrpcCallError):
                broker.call("raises", hook_type="Post")
            broker.call("copies")
            record_until(file, 1)
        assert [call.hook for call in calls_in(file)] == ["copies"]


def test_hooks_that_do_not_exist_are_told(broker: RunningBroker, tmp_path: Path) -> None:
    hooks = ("--hook", "copies,seen,hooks.py/raises,missing")
    with recording(broker, tmp_path / "t", "--for", "10ms", *hooks) as process:
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "note: no bundle has a hook missing now; see `tykpy hooks`\n"


def test_a_share_of_the_calls_is_recorded(broker: RunningBroker, tmp_path: Path) -> None:
    file = tmp_path / "t"
    with recording(broker, file, "--sample", "50%"):
        for _ in range(200):
            broker.call("copies")
        record_until(file, 30)
    assert 30 <= len(calls_in(file)) <= 170


def test_calls_above_the_rate_are_left_out_and_counted(broker: RunningBroker, tmp_path: Path) -> None:
    file = tmp_path / "t"
    with recording(broker, file, "--rate", "1") as process:
        for _ in range(100):
            broker.call("copies")
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=PATIENCE)[0]
    with closing(Recording(file)) as found:
        calls = len(list(found.calls()))
        assert (calls > 0, found.dropped) == (True, 100 - calls)
    assert found.dropped > 0
    assert f"{found.dropped} dropped" in told


def test_a_recording_ends_at_its_size(broker: RunningBroker, tmp_path: Path) -> None:
    file = tmp_path / "t"
    with recording(broker, file, "--max", "10KiB") as process:
        while process.poll() is None:
            broker.call("copies", body=b"x" * 2000)
        assert process.stdout is not None
        assert "it has the size of --max" in process.stdout.read()
    assert 10 * 1024 <= file.stat().st_size < 24 * 1024


def test_the_recordings_time_ends(broker: RunningBroker, tmp_path: Path) -> None:
    with recording(broker, tmp_path / "t", "--for", "10ms") as process:
        assert process.wait(PATIENCE) == 0
        assert process.stdout is not None
        assert "the time of --for has passed" in process.stdout.read()


def test_a_second_recording_is_refused(broker: RunningBroker, tmp_path: Path) -> None:
    with recording(broker, tmp_path / "t"):
        second = ended("--runtime-dir", str(broker.runtime), "-o", str(tmp_path / "u"))
        assert second.returncode == 1
        assert "another tykpy record runs" in second.stderr
        assert not (tmp_path / "u").exists()


def test_a_killed_recorder_makes_room_for_the_next(broker: RunningBroker, tmp_path: Path) -> None:
    with recording(broker, tmp_path / "t") as process:
        broker.call("copies")
        record_until(tmp_path / "t", 1)
        process.kill()
        process.wait()
        with recording(broker, tmp_path / "u"):
            broker.call("copies")
            record_until(tmp_path / "u", 1)


def test_calls_that_are_not_fetched_are_dropped_and_counted(broker: RunningBroker) -> None:
    body = b"x" * (recorder.MAX_CALL // 5)  # it is in the request twice, and in the answer
    with broker.admin() as admin:
        admin.call("record_start", {})
        calls = recorder.MAX_WAITING // (4 * len(body)) + 3
        for _ in range(calls):
            broker.call("copies", body=body)
        broker.call("copies", body=b"x" * recorder.MAX_CALL)  # too large, whatever waits
        taken, dropped = 0, 0
        while not dropped or taken + dropped < calls + 1:
            batch = admin.call("record_read")
            taken, dropped = taken + len(batch["calls"]), dropped + batch["dropped"]
        assert taken + dropped == calls + 1
        assert taken >= calls - 4
        admin.call("record_stop")
        assert admin.call("record_read") is None


@pytest.mark.parametrize("options", [{"sample": 0}, {"sample": 2}, {"sample": "x"}, {"hooks": "a"}, {"more": 1}, 7])
def test_wrong_options_are_refused(broker: RunningBroker, options: object) -> None:
    with broker.admin() as admin, pytest.raises(RpcError, match="takes a map of options"):
        admin.call("record_start", options)


def test_errors_say_what_to_do(broker: RunningBroker, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for flags, text in (
        (["-o", str(tmp_path / "there")], "exists; choose another name"),
        (["-o", str(tmp_path / "t"), "--redact", "$..x"], "not a path"),
        (["-o", str(tmp_path / "t"), "--sample", "0"], "above 0 and at most 100%"),
        (["-o", str(tmp_path / "t"), "--hook", "caf\udce9"], "'caf\\udce9' is no name"),
        ([], "name the file to write: -o FILE"),
    ):
        ran = ended("--runtime-dir", str(broker.runtime), *flags)
        assert ran.returncode
        assert text in ran.stderr
    assert "no broker answers" in ended("--runtime-dir", str(tmp_path), "-o", str(tmp_path / "t")).stderr
    assert not (tmp_path / "t").exists()
