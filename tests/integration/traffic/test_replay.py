"""`tykpy replay`: a recording is run through bundles, and differences are told."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.traffic.test_record import record_until, recording
from tests.support.broker import PATIENCE, TYKPY, running_broker
from tests.support.installed import check_types, installed
from tykpy.broker.grpc.wire import GrpcCallError

HOOKS = """
from tyk.decorators import *

@Pre
def greet(request, session, spec):
    request.add_header("X-Greeting", "hello " + (request.get_header("X-Name") or "you"))
    return request, session

@CustomKeyCheck
async def check(request, session, metadata, spec):
    if request.get_header("Authorization") is None:
        request.object.return_overrides.response_code = 401
    else:
        metadata["token"] = request.get_header("Authorization")
    return request, session, metadata

@Post
def raises(request, session, spec):
    raise ValueError("as ever")

@Event
def seen(event, spec):
    pass
"""
NOTING = """
from pathlib import Path
from tyk.decorators import *

@Pre
def greet(request, session, spec):
    Path({folder!r}, "saw-" + request.get_header("X-Name")).touch()
    return request, session

@CustomKeyCheck
def check(request, session, metadata, spec):
    Path({folder!r}, f"saw-{{request.get_header('Authorization') is not None:d}}").touch()
    return request, session, metadata
"""
EVENT = {"Type": "AuthFailure", "Meta": {"Path": "/a"}}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of seven calls."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "broker").mkdir()
    file = folder / "traffic.tykpy"
    with running_broker(folder / "broker", files={"mine.py": HOOKS}) as broker, recording(broker, file):
        for name in ("ann", "bob", "cleo"):
            broker.call("greet", headers=[("X-Name", name)], url=f"/{name}", bundle="mine")
        broker.call("check", hook_type="CustomKeyCheck", bundle="mine")
        broker.call("check", hook_type="CustomKeyCheck", bundle="mine", headers=[("Authorization", "Bearer secret-1")])
        with pytest.raises(GrpcCallError):
            broker.call("raises", hook_type="Post", bundle="mine")
        with pytest.raises(GrpcCallError):
            broker.call("missing", bundle="mine")
        record_until(file, 7)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(HOOKS)
    yield tmp_path
    assert not list(Path("/tmp").glob("tykpy-replay-*/tyk.sock"))


def replay(recorded: Path, *arguments: object) -> tuple[int, str]:
    command = [TYKPY, "replay", str(recorded), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE * 3)
    return ran.returncode, ran.stdout + ran.stderr


def test_the_same_code_has_no_differences(recorded: Path, folder: Path) -> None:
    status, shown = replay(recorded, "--bundle", folder / "mine.py", "--diff")
    assert (status, "no differences" in shown) == (0, True), shown
    assert "cut off" not in shown
    assert "6 calls of mine.py replayed" in shown
    assert re.search(r"^recorded +\d+\.\d+ ms", shown, re.MULTILINE)


def test_differences_are_grouped_by_shape(recorded: Path, folder: Path) -> None:
    changed = HOOKS.replace('"hello "', '"good day "').replace("as ever", "something else").replace("401", "403")
    (folder / "mine.py").write_text("\n\n" + changed)
    status, shown = replay(recorded, "--bundle", folder / "mine.py", "--diff")
    assert status == 1
    assert "5 differ, in 3 ways" in shown
    assert "3 calls of greet: ~ request.set_headers['X-Greeting'], as in call 1" in shown
    assert "  - 'hello ann'\n  + 'good day ann'" in shown
    assert "1 call of check: ~ request.return_overrides.response_code" in shown
    assert "ValueError: something else" in shown
    ignored = ["--ignore", "request.set_headers", "--ignore", "failure", "--ignore", "request.return_overrides"]
    status, shown = replay(recorded, "--bundle", folder / "mine.py", *ignored)
    assert status == 0
    assert "5 differ only where --ignore says so" in shown


def test_a_recording_that_was_cut_off_is_told(recorded: Path, folder: Path) -> None:
    whole = recorded.read_bytes()
    (folder / "cut").write_bytes(whole[: whole.rindex(b"Bearer")])
    status, shown = replay(folder / "cut", "--bundle", folder / "mine.py")
    assert (status, "4 calls of mine.py replayed" in shown) == (0, True), shown
    assert "the recording was cut off" in shown


def test_two_bundles_are_compared_with_each_other(recorded: Path, folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "mine.py").write_text(HOOKS.replace("hello", "good day"))
    (folder / "mine.py").write_text(HOOKS.replace("hello", "good day").replace("as ever", "no more"))
    status, shown = replay(recorded, "--bundle", folder / "mine.py", "--against", folder / "old" / "mine.py")
    assert status == 1
    assert "1 differ, in 1 way:" in shown
    assert re.search(r"1 +raises +~ +failure", shown)
    assert shown.count(" ms") == 9


def test_a_hook_that_is_gone_is_a_difference(recorded: Path, folder: Path) -> None:
    (folder / "mine.py").write_text(HOOKS.replace("def greet", "def welcome"))
    status, shown = replay(recorded, "--bundle", folder / "mine.py", "--diff")
    assert status == 1
    assert "NOT_FOUND" in shown


def test_recorded_calls_become_tests(recorded: Path, folder: Path) -> None:
    status, shown = replay(recorded, "--bundle", folder / "mine.py", "--as-tests", folder / "tests")
    assert (status, "5 cases in" in shown) == (0, True), shown
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
    passed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "5 passed" in passed.stdout
    (folder / "mine.py").write_text(HOOKS.replace("hello", "good day"))
    failed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "3 failed, 2 passed" in failed.stdout
    check_types(folder / "tests", installed(folder / "installed"))
    written = folder / "tests" / "test_recorded.py"
    subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--config", "line-length = 120", "--isolated", written],
        check=True,
    )
    status, shown = replay(recorded, "--bundle", folder / "mine.py", "--as-tests", folder / "tests")
    assert (status, "exists; remove it" in shown) == (1, True)


def test_errors_say_what_to_do(recorded: Path, folder: Path) -> None:
    (folder / "broken.py").write_text("import nothing_like_this\n")
    for arguments, text in (
        (["--bundle", folder / "no"], "no such bundle"),
        (["--bundle", folder / "broken.py"], "broken.py:1: ModuleNotFoundError: No module named 'nothing_like_this'"),
        (["--bundle", folder / "mine.py", "--recorded", "other"], "it has mine.py (6 calls)"),
    ):
        status, shown = replay(recorded, *arguments)
        assert status == 1
        assert text in shown
    status, shown = replay(folder / "mine.py", "--bundle", folder / "mine.py")
    assert (status, "not a recording" in shown) == (1, True)


def test_bench_sends_recorded_calls(recorded: Path, tmp_path: Path) -> None:
    """The bundle notes what it gets: each of the five calls that had succeeded, and nothing else."""
    (tmp_path / "mine.py").write_text(NOTING.format(folder=str(tmp_path)))
    arguments = ["--replay", str(recorded), "--bundle", str(tmp_path / "mine.py"), "--workers", "1", "--streams", "2"]
    short = ["--seconds", "0.3", "--warm-up", "0.05", "--repeat", "1"]
    done = subprocess.run(
        [TYKPY, "bench", *arguments, *short], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sending 5 recorded calls of mine.py in turn; 1 failed call left out" in done.stderr
    assert "failed" not in done.stdout
    assert {path.name for path in tmp_path.glob("saw-*")} == {"saw-ann", "saw-bob", "saw-cleo", "saw-0", "saw-1"}
