"""Bundles that need something only one process can have: loaded in one worker, broken in the others."""

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, running_broker, wait_until
from tests.support.peers.load import Load
from tykpy.broker.grpc.wire import GrpcCallError

HOOK = """
import os
from tyk.decorators import Event, Pre

@Pre
def exclusive(request, session, spec):
    request.add_header("X-Worker", str(os.getpid()))
    request.add_header("Nonce", request.get_header("Nonce"))
    return request, session
"""
LOCKED = "import fcntl\nlock = open({path!r}, 'w')\nfcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
LISTENING = "import socket\nlistener = socket.create_server(('127.0.0.1', {port}))\n"
PID_FILE = """
import os
def lives(pid):
    return pid.isdigit() and os.path.exists("/proc/" + pid)
if os.path.exists({path!r}) and lives(open({path!r}).read()):
    raise RuntimeError("it runs already")
with open({path!r} + ".new", "x") as file:
    file.write(str(os.getpid()))
os.rename({path!r} + ".new", {path!r})
"""
OTHER = HOOK.replace("exclusive", "other")


def locked(folder: Path) -> str:
    return LOCKED.format(path=str(folder / "lock")) + HOOK


def listening(folder: Path) -> str:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return LISTENING.format(port=free.getsockname()[1]) + HOOK


def pid_file(folder: Path) -> str:
    return PID_FILE.format(path=str(folder / "pid")) + HOOK


def pids(broker: RunningBroker) -> set[int]:
    return {worker["pid"] for worker in broker.status()["workers"]}


def worker_of(broker: RunningBroker, name: str = "exclusive", bundle: str = "mine") -> int:
    """Return the worker that answers."""
    answer = broker.call(name, bundle=bundle, headers=[("Nonce", "-")])
    return int(answer.request.set_headers["X-Worker"])


def outline(broker: RunningBroker, name: str = "mine.py") -> dict[str, Any]:
    (found,) = (bundle for bundle in broker.status()["bundles"] if bundle["name"] == name)
    return dict(found)


def reload(broker: RunningBroker) -> None:
    with broker.admin() as client:
        assert client.call("reload", timeout=PATIENCE * 2)


@contextlib.contextmanager
def held(folder: Path, *flags: str, workers: int = 2) -> Iterator[RunningBroker]:
    """Yield a broker with a bundle that takes a lock, and one that does not."""
    files = {"mine.py": locked(folder), "other.py": OTHER}
    with running_broker(folder, *flags, workers=workers, files=files) as broker:
        yield broker


@pytest.mark.parametrize("source", [locked, listening, pid_file])
def test_calls_go_only_to_the_worker_that_loaded_it(tmp_path: Path, source: Callable[[Path], str]) -> None:
    with running_broker(tmp_path, workers=3, files={"mine.py": source(tmp_path), "other.py": OTHER}) as broker:
        with concurrent.futures.ThreadPoolExecutor(8) as callers:
            for bundle in ("mine", "mine.py", ""):
                assert len({*callers.map(lambda _: worker_of(broker, bundle=bundle), range(16))}) == 1  # noqa: B023
        (owner,) = {worker_of(broker), worker_of(broker)}
        assert broker.call("*", bundle="mine", headers=[("Nonce", "-")]).request.set_headers["X-Worker"] == str(owner)
        assert worker_of(broker, "other", "other")
        found = outline(broker)
        assert (found["loaded_in"], found["workers"]) == (1, 3)
        assert len(found["problems"]) == 1
        assert outline(broker, "other.py")["problems"] == []
        command = [TYKPY, "hooks", "--runtime-dir", str(broker.runtime)]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert shown.returncode == 1
        assert f"loaded in 1 of 3 workers, which get its calls: {found['problems'][0]}" in shown.stderr
        assert broker.log.count("loaded in some workers only") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_reloads_go_on_and_the_bundle_comes_back(tmp_path: Path, workers: int) -> None:
    with held(tmp_path, workers=workers) as broker:
        for version in ("1", "2"):
            before = worker_of(broker)
            broker.add_file("other.py", OTHER.replace('"X-Worker", str(os.getpid())', f'"X-Worker", "{version}"'))
            with Load(broker.address, "exclusive", "mine", callers=2) as load:
                reload(broker)
                wait_until(lambda: worker_of(broker) != before, lambda: broker.log)  # noqa: B023
                load.wait_for_more(20)
            load.check()
            assert not load.errors
            assert worker_of(broker, "other", "other") == int(version)


def test_when_its_worker_dies_calls_wait_for_the_next(tmp_path: Path) -> None:
    with held(tmp_path) as broker:
        for _ in range(3):
            owner = worker_of(broker)
            os.kill(owner, signal.SIGKILL)
            assert worker_of(broker) != owner
        wait_until(lambda: len(pids(broker)) == 2, lambda: str(broker.status()))
        assert broker.status()["dispatches"]["failed"] == 0


def test_when_all_workers_die_the_bundle_comes_back(tmp_path: Path) -> None:
    with held(tmp_path) as broker:
        before = pids(broker)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert worker_of(broker) not in before


def test_an_import_that_waits_for_the_lock_is_given_up_elsewhere(tmp_path: Path) -> None:
    """It is tried again once the worker with the lock is gone."""
    waiting = locked(tmp_path).replace(" | fcntl.LOCK_NB", "")
    with running_broker(tmp_path, "--load-timeout", "1", workers=2, files={"mine.py": waiting}) as broker:
        owner = worker_of(broker)
        assert outline(broker)["loaded_in"] == 1
        os.kill(owner, signal.SIGKILL)
        assert worker_of(broker) != owner
        owner = worker_of(broker)
        reload(broker)
        wait_until(lambda: worker_of(broker) != owner, lambda: broker.log)
        assert broker.status()["dispatches"]["failed"] == 0


def test_recycled_workers_lose_no_call(tmp_path: Path) -> None:
    with held(tmp_path, "--max-requests", "20") as broker:
        owner = worker_of(broker)
        with Load(broker.address, "exclusive", "mine", callers=2) as load:
            wait_until(lambda: broker.status()["recycled"] >= 2, lambda: str(broker.status()))
            wait_until(lambda: worker_of(broker) != owner, lambda: broker.log)
        load.check()
        assert not load.errors


def test_scaling_away_its_worker_moves_the_bundle(tmp_path: Path) -> None:
    with held(tmp_path, workers=1) as broker, broker.admin() as client:
        # The worker that is too many is the one with the highest slot: have that one take the lock.
        client.call("scale", 2)
        owner = worker_of(broker)
        wait_until(lambda: outline(broker)["workers"] == 2, lambda: str(broker.status()))
        os.kill(owner, signal.SIGKILL)
        assert worker_of(broker) != owner
        client.call("scale", 1)
        wait_until(lambda: len(pids(broker)) == 1, lambda: str(broker.status()))
        assert {worker_of(broker)} <= pids(broker)


def test_code_that_defines_a_hook_in_one_worker_only_is_found(tmp_path: Path) -> None:
    """The bundle loads everywhere, but has one more hook where it got the lock."""
    taken = LOCKED.format(path=str(tmp_path / "lock")).replace("\n", "\n    ").rstrip()
    source = f"{OTHER}\ntry:\n    {taken}\nexcept OSError:\n    pass\nelse:\n    @Pre\n" + "".join(
        f"    {line}\n" for line in HOOK.split("@Pre\n")[1].splitlines()
    )
    with running_broker(tmp_path, workers=2, files={"mine.py": source}) as broker:
        with concurrent.futures.ThreadPoolExecutor(8) as callers:
            assert len({*callers.map(lambda _: worker_of(broker), range(16))}) == 1
            assert {*callers.map(lambda _: worker_of(broker, "other"), range(8))} <= pids(broker)


def test_a_bundle_that_cannot_come_back_fails_with_the_reason(tmp_path: Path) -> None:
    """A call waits for the first try only; the bundle is back once it can have what it needs."""
    licence = tmp_path / "licence"
    licence.touch()
    needing = f"import os\nif not os.path.exists({str(licence)!r}):\n    raise RuntimeError('no licence')\n"
    with running_broker(tmp_path, workers=2, files={"mine.py": needing + HOOK, "other.py": OTHER}) as broker:
        licence.unlink()
        for pid in pids(broker):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(GrpcCallError, match="RuntimeError: no licence"):
            worker_of(broker)
        broker.wait_for_log("next try in 1 s")
        assert worker_of(broker, "other", "other")
        assert outline(broker)["loaded_in"] == 0
        licence.touch()
        wait_until(lambda: outline(broker)["loaded_in"] == 1, lambda: broker.log)
        assert worker_of(broker)
