"""Reload: new code under the same name without a failed call, or no change if the new code does not load."""

import concurrent.futures
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, running_broker, wait_until
from tests.support.bundles import write_bundle
from tests.support.hooks import SOURCE, Gate
from tests.support.peers.load import METHOD, Load
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.errors import RpcError
from tykpy.client.grpc import GrpcClient
from tykpy.commands.objects import CallDescription, build_object

BROKEN = "def version(:\n"


def source(version: str) -> str:
    return (
        "from tyk.decorators import Pre\n"
        "@Pre\n"
        "def version(request, session, spec):\n"
        f"    request.add_header('Version', '{version}')\n"
        "    request.add_header('Nonce', request.get_header('Nonce'))\n"
        "    return request, session\n"
    )


def version_of(broker: RunningBroker) -> str:
    return broker.call("version", bundle="mine", headers=[("Nonce", "-")]).request.set_headers["Version"]


def pids(broker: RunningBroker) -> set[int]:
    return {worker["pid"] for worker in broker.status()["workers"]}


def reload(broker: RunningBroker) -> dict[str, object]:
    with broker.admin() as client:
        answer = client.call("reload", timeout=PATIENCE * 2)
    assert isinstance(answer, dict)
    return answer


def refusal(broker: RunningBroker) -> str:
    with pytest.raises(RpcError) as caught:
        reload(broker)
    return str(caught.value)


def test_a_reload_serves_new_code_on_the_same_connection(tmp_path: Path) -> None:
    with running_broker(tmp_path, workers=2, files={"mine.py": source("1")}) as broker:
        before, inode = pids(broker), broker.socket.stat().st_ino
        call = build_object(CallDescription("version", bundle="mine", headers=[("Nonce", "-")])).SerializeToString()
        with GrpcClient(broker.address) as client:
            assert Object.FromString(client.call(METHOD, call)).request.set_headers["Version"] == "1"
            broker.add_file("mine.py", source("2"))
            broker.add_file("other.py", source("other"))
            answer = reload(broker)
            for _ in range(8):
                assert Object.FromString(client.call(METHOD, call)).request.set_headers["Version"] == "2"
        assert [(one["name"], one["change"]) for one in answer["bundles"]] == [  # type: ignore[attr-defined]
            ("mine.py", "changed"),
            ("other.py", "new"),
        ]
        wait_until(lambda: len(pids(broker)) == 2, lambda: str(broker.status()))
        assert not pids(broker) & before
        assert broker.socket.stat().st_ino == inode
        assert broker.status()["restarts"] == 0


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.soak)])
def test_reloads_under_load_fail_no_call(tmp_path: Path, times: int) -> None:
    with running_broker(tmp_path, workers=2, files={"mine.py": source("0")}) as broker:
        with Load(broker.address, "version", "mine", header="Version") as load:
            for version in range(1, times + 1):
                broker.add_file("mine.py", source(str(version)))
                reload(broker)
                load.wait_for_more(100)
        load.check()
        assert not load.errors
        assert set(load.seen) >= {str(version) for version in range(times + 1)}
        assert version_of(broker) == str(times)
        broker.check_accounts()
        assert broker.status()["restarts"] == 0


def test_sighup_reloads(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": source("1")}) as broker:
        broker.add_file("mine.py", source("2"))
        os.kill(broker.pid, signal.SIGHUP)
        wait_until(lambda: version_of(broker) == "2", lambda: broker.log)
        broker.wait_for_status(lambda text: "RELOADING=1" in text)
        broker.wait_for_status(lambda text: text == "READY=1")


def test_a_call_that_runs_is_finished_by_the_worker_that_has_it(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        running = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        ((pid, _, _),) = gate.wait_entered()
        reload(broker)
        assert broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"] != str(pid)
        assert [row["state"] for row in broker.status()["workers"] if row["pid"] == pid] == ["leaving"]
        gate.open()
        assert running.result()
        wait_until(lambda: not psutil.pid_exists(pid), lambda: f"the end of process {pid}")


@pytest.mark.parametrize(
    ("broken", "said"),
    [(BROKEN, "mine.py:1: SyntaxError"), ("import nothing_like_it\n", "nothing_like_it")],
)
def test_a_reload_of_a_broken_bundle_is_refused(tmp_path: Path, broken: str, said: str) -> None:
    with running_broker(tmp_path, workers=2, files={"mine.py": source("1")}) as broker:
        before = pids(broker)
        broker.add_file("mine.py", broken)
        assert said in refusal(broker)
        assert version_of(broker) == "1"
        wait_until(lambda: pids(broker) == before, lambda: str(broker.status()))
        assert said in broker.status()["reload"]["why"]
        assert "reload refused, the old version goes on" in broker.log
        broker.add_file("mine.py", source("2"))
        reload(broker)
        assert version_of(broker) == "2"


def test_a_reload_whose_workers_do_not_start_is_refused(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": source("1")}) as broker:
        broker.add_file("mine.py", "import os\nos._exit(5)\n")
        assert "the worker that loaded it exited with code 5" in refusal(broker)
        assert version_of(broker) == "1"


def test_without_the_folder_of_bundles_the_old_version_goes_on(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": source("1")}) as broker:
        broker.bundles.rename(tmp_path / "aside")
        assert f"{broker.bundles}: no such folder" in refusal(broker)
        assert version_of(broker) == "1"
        (tmp_path / "aside").rename(broker.bundles)
        broker.add_file("mine.py", source("2"))
        reload(broker)
        assert version_of(broker) == "2"


def test_a_bundle_broken_before_does_not_stop_a_reload(tmp_path: Path) -> None:
    files = {"mine.py": source("1"), "broken.py": BROKEN}
    with running_broker(tmp_path, files=files) as broker:
        broker.add_file("mine.py", source("2"))
        (broker.bundles / "broken.py").rename(broker.bundles / "gone.py")
        answer = reload(broker)
        assert version_of(broker) == "2"
        bundles = {one["name"]: one for one in answer["bundles"]}  # type: ignore[attr-defined]
        assert {name: one["change"] for name, one in bundles.items()} == {
            "broken.py": "gone",
            "gone.py": "new",
            "mine.py": "changed",
        }
        assert "SyntaxError" in bundles["gone.py"]["problems"][0]


def test_a_request_during_a_reload_gets_the_next_one(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": source("1")}) as broker, broker.admin() as client:
        answers = client.pipeline([("reload", ())] * 3, timeout=PATIENCE * 2)
        assert [answer["workers"] for answer in answers] == [1, 1, 1]
        assert broker.log.count("reloading: ") == 2


def test_the_command_shows_the_bundles_or_the_problems(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": source("1")}) as broker:
        command = [TYKPY, "reload", "--runtime-dir", str(broker.runtime)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[1].split() == ["mine.py", "same", "1"]
        broker.add_file("mine.py", BROKEN)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "mine.py:1" in done.stderr


def replace(path: Path, text: str) -> None:
    """Put another file in its place, with the fixed time that reproducible archives unpack with."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.utime(new, (315_532_800, 315_532_800))
    new.rename(path)


def served_version(broker: RunningBroker) -> str:
    (version,) = {row["bundles_version"] for row in broker.status()["workers"] if row["state"] == "ready"}
    return str(version)


def test_a_file_of_the_same_size_and_time_is_a_change(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": source("0")}) as broker:
        replace(broker.bundles / "mine.py", source("1"))
        reload(broker)
        before = served_version(broker)
        replace(broker.bundles / "mine.py", source("2"))
        assert [one["change"] for one in reload(broker)["bundles"]] == ["changed"]  # type: ignore[attr-defined]
        assert served_version(broker) != before
        (broker.bundles / "mine.py").touch()
        assert [one["change"] for one in reload(broker)["bundles"]] == ["same"]  # type: ignore[attr-defined]
        assert version_of(broker) == "2"


def test_the_flag_notices_a_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--reload", files={"mine.py": source("0")}) as broker:
        for version in ("1", "2"):
            replace(broker.bundles / "mine.py", source(version))
            wait_until(lambda version=version: version_of(broker) == version, lambda: broker.log)  # type: ignore[misc]


def test_with_the_flag_an_edit_is_enough(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--reload", files={"mine.py": source("1")}) as broker:
        broker.add_file("mine.py", source("2"))
        wait_until(lambda: version_of(broker) == "2", lambda: broker.log)
        broker.add_file("mine.py", BROKEN)
        broker.wait_for_log("reload refused")
        assert version_of(broker) == "2"
        broker.add_file("mine.py", source("3"))
        wait_until(lambda: version_of(broker) == "3", lambda: broker.log)


def test_with_the_flag_a_new_bundle_starts_one_generation(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--reload", files={"mine.py": source("1")}) as broker:
        broker.add_file("new.py", source("1"))
        broker.wait_for_log("loaded: new.py new")
        broker.add_file("mine.py", source("2"))
        wait_until(lambda: version_of(broker) == "2", lambda: broker.log)
        assert broker.log.count("reloading: ") == 1


def test_with_the_flag_a_bundle_may_write_to_itself(tmp_path: Path) -> None:
    writes = "import os, time\nopen(os.path.join(os.path.dirname(__file__), 'at.json'), 'w').write(str(time.time()))\n"
    with running_broker(tmp_path, "--reload", files={"mine.py": source("1")}) as broker:
        write_bundle(broker.bundles / "writes", {"middleware.py": writes + source("1")})
        for version in ("2", "3", "4"):
            broker.add_file("mine.py", source(version))
            wait_until(lambda version=version: version_of(broker) == version, lambda: broker.log)  # type: ignore[misc]
        assert broker.log.count("reloading: ") <= 3 + 2


def test_a_reload_replaces_workers_that_died_meanwhile(tmp_path: Path) -> None:
    with running_broker(tmp_path, workers=2, files={"mine.py": source("1")}) as broker:
        with Load(broker.address, "version", "mine", header="Version") as load, broker.admin() as client:
            before = pids(broker)
            broker.add_file("mine.py", source("2"))
            client.notify("reload")
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: bool(broker.status()["reload"]), lambda: broker.log)
            load.wait_for_more(50)
        load.check()
        wait_until(lambda: [row["state"] for row in broker.status()["workers"]] == ["ready"] * 2, lambda: broker.log)
        assert version_of(broker) == "2"
