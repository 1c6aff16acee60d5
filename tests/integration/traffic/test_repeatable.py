"""What hooks read through `tyk` is recorded, and read again in a replay."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.traffic.test_record import calls_in, record_until, recording
from tests.integration.traffic.test_replay import replay
from tests.support.broker import PATIENCE, TYKPY, running_broker
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.grpc.wire import GrpcCallError
from tykpy.client.grpc import GrpcClient
from tykpy.commands.objects import DISPATCH
from tykpy.ipc.reads import StoreRead

HOOKS = """
import tyk
from tyk.decorators import *
from tyk.gateway import TykGateway

@Pre
def stamps(request, session, spec):
    request.add_header("X-Time", f"{tyk.time()} {tyk.now().isoformat()}")
    request.add_header("X-Id", f"{tyk.uuid4()} {tyk.random().random()}")
    request.add_header("X-Left", str(tyk.current().time_left))
    request.add_header("X-Caller", str(dict(tyk.current().metadata)))
    return request, session

@Post
async def counts(request, session, spec):
    request.add_header("X-Count", str(await tyk.store.aincr("count", STEP)))
    request.add_header("X-Profile", (await tyk.store.aget("profile", b"none")).decode())
    return request, session

@CustomKeyCheck
def knows(request, session, metadata, spec):
    key = request.get_header("Authorization")
    metadata["user"] = TykGateway.get_data("user:" + key).decode()
    TykGateway.store_data("user:" + key, "seen")
    return request, session, metadata

@Pre
def fails(request, session, spec):
    raise ValueError(str(tyk.time()))

@Event
def seen(event, spec):
    tyk.store.incr("events")
"""
PROFILE = b'{"name": "ann", "password": "hidden-from-all"}'
KEY = "Bearer a-clients-secret"
CALLS = 8


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeatable")
    (folder / "broker").mkdir()
    file = folder / "traffic.tykpy"
    files = {"mine.py": HOOKS.replace("STEP", "1"), "seed.py": _seeding()}
    with running_broker(folder / "broker", files=files) as broker:
        broker.call("seed", bundle="seed")
        with recording(broker, file):
            broker.call("stamps", bundle="mine")
            request = broker.object_for("stamps", bundle="mine").SerializeToString()
            with GrpcClient(broker.address) as client:
                client.call(DISPATCH, request, timeout=PATIENCE, metadata={"x-from": "a test", "authorization": KEY})
            for _ in range(2):
                broker.call("counts", hook_type="Post", bundle="mine")
            broker.call("counts", hook_type="Post", bundle="mine", body=b"x" * 300_000)
            for _ in range(2):
                broker.call("knows", hook_type="CustomKeyCheck", bundle="mine", headers=[("Authorization", KEY)])
            with pytest.raises(GrpcCallError):
                broker.call("fails", bundle="mine")
            record_until(file, CALLS)
    return file


def _seeding() -> str:
    return f"""
import tyk
from tyk.decorators import *

@Pre
def seed(request, session, spec):
    tyk.store.set_many({{"count": 41, "profile": {PROFILE!r}, "user:{KEY}": "ann"}})
    return request, session
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(HOOKS.replace("STEP", "1"))
    return tmp_path / "mine.py"


def test_a_replay_reads_what_was_recorded(recorded: Path, bundle: Path) -> None:
    status, shown = replay(recorded, "--bundle", bundle, "--diff")
    assert (status, "no differences" in shown) == (0, True), shown
    assert f"{CALLS} calls of mine.py replayed" in shown


def test_changed_code_reads_it_too(recorded: Path, bundle: Path) -> None:
    bundle.write_text(HOOKS.replace("STEP", "2"))
    status, shown = replay(recorded, "--bundle", bundle, "--diff")
    assert status == 1
    assert "3 differ, in 1 way:" in shown
    assert "- '42'\n  + '43'" in shown


def test_the_recording_has_what_was_read(recorded: Path) -> None:
    first, second, counted, _, large, known, again, failed = calls_in(recorded)
    answer = Object.FromString(first.answer)
    assert first.reads.times[0] == float(answer.request.set_headers["X-Time"].split()[0])
    assert len(first.reads.times) == 2
    assert len(first.reads.seed) == 16
    assert first.reads.times_left == [float(answer.request.set_headers["X-Left"])]
    assert second.metadata["x-from"] == "a test"
    assert second.metadata["authorization"].startswith("Bearer redacted-")
    assert counted.reads.store[0] == StoreRead("count", 0, b"41")
    assert large.reads.store[0] == StoreRead("count", 0, b"43")
    assert [read.value for read in (*known.reads.store, *again.reads.store)] == [b"ann", b"seen"]
    assert known.reads.store[0].key.startswith("user:Bearer redacted-")
    assert failed.message.count(str(failed.reads.times[0])) == 1


def test_secrets_in_the_store_are_redacted(recorded: Path) -> None:
    data = recorded.read_bytes()
    assert b"hidden-from-all" not in data
    assert b"a-clients-secret" not in data
    shown = subprocess.run(
        [TYKPY, "record", "show", "--json", str(recorded)], capture_output=True, text=True, check=True
    )
    calls = [json.loads(line) for line in shown.stdout.splitlines()]
    assert calls[0]["reads"]["times"]
    assert calls[1]["metadata"]["x-from"] == "a test"


def test_tests_of_a_recording_read_it(recorded: Path, bundle: Path) -> None:
    folder = bundle.parent
    status, shown = replay(recorded, "--bundle", bundle, "--as-tests", folder / "tests")
    assert status == 0, shown
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", "tests"]
    passed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "passed" in passed.stdout, passed.stdout
    assert "failed" not in passed.stdout
    bundle.write_text(HOOKS.replace("STEP", "2"))
    failed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "1 failed" in failed.stdout


def test_the_environment_does_not_show_a_replay(recorded: Path, bundle: Path) -> None:
    own = "import os\nVARIABLES = [name for name in os.environ if 'REPLAY' in name]\n"
    bundle.write_text(own + HOOKS.replace("STEP", "1").replace("str(dict(", "str(VARIABLES or dict("))
    status, shown = replay(recorded, "--bundle", bundle, "--diff")
    assert status == 0, shown
