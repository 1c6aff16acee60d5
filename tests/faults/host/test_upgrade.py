"""SIGUSR2: a new program takes over the sockets without a failed call, or nothing changes."""

import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from tests.faults.host.test_starting import DIES
from tests.support.broker import PATIENCE, RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE, Gate
from tests.support.peers.load import Load
from tykpy.broker.codes import GrpcCode
from tykpy.client.grpc import GrpcCallError

FILES = {"hooks.py": SOURCE}


class GrpcioClient:
    """A client that opens a new connection when it is told to, as the gateway does."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call(self, method: str, payload: bytes, timeout: float | None = None) -> bytes:
        """Make one call."""
        try:
            answer: bytes = self._channel.unary_unary(method)(payload, timeout=timeout)
        except grpc.RpcError as error:
            code = GrpcCode[error.code().name]
            raise GrpcCallError(code, error.details()) from error
        return answer


@contextlib.contextmanager
def grpcio_client(address: str) -> Iterator[GrpcioClient]:
    # Threads of ours do not share a connection. What a server has not looked at (GOAWAY) is sent again, as by grpc-go.
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield GrpcioClient(channel)


@contextlib.contextmanager
def upgradable(folder: Path, *flags: str, workers: int = 1) -> Iterator[RunningBroker]:
    """A broker whose successor, which is no child of the test, is ended as well."""
    with running_broker(folder, *flags, workers=workers, files=FILES) as broker:
        try:
            yield broker
        finally:
            if (broker.runtime / "admin.sock").exists():
                successor = broker.status()["pid"]
                if successor != broker.pid:
                    stop(successor)


def stop(pid: int) -> None:
    process = psutil.Process(pid)
    process.terminate()
    process.wait(PATIENCE)


def upgrade(broker: RunningBroker) -> int:
    """Upgrade, and return the pid of the process that answers on the admin socket afterwards."""
    before, drained = broker.status()["pid"], broker.log.count("draining:")
    os.kill(before, signal.SIGUSR2)
    # The old one accepts nothing more once it has logged this.
    wait_until(lambda: broker.log.count("draining:") > drained, lambda: broker.log)
    successor = broker.status()["pid"]
    assert successor != before
    return int(successor)


def refused(broker: RunningBroker) -> str:
    os.kill(broker.pid, signal.SIGUSR2)
    wait_until(lambda: bool(broker.status()["upgrade"]), lambda: broker.log)
    status = broker.status()
    assert status["pid"] == broker.pid
    assert not status["upgrade"]["ok"]
    return str(status["upgrade"]["why"])


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_upgrades_under_load_fail_no_call(tmp_path: Path, times: int) -> None:
    with upgradable(tmp_path, workers=2) as broker:
        inode = broker.socket.stat().st_ino
        seen = {broker.pid}
        with Load(broker.address, "echo_with_worker", "hooks", connect=grpcio_client) as load:
            for _ in range(times):
                before = broker.status()["pid"]
                seen.add(upgrade(broker))
                wait_until(lambda: not psutil.pid_exists(before) or broker.wait() == 0, lambda: broker.log)  # noqa: B023
                load.wait_for_more(50)
        load.check()
        assert not load.errors
        assert len(seen) == times + 1
        broker.check_accounts()
        assert broker.socket.stat().st_ino == inode


def test_whoever_connects_during_an_upgrade_is_served(tmp_path: Path) -> None:
    over = threading.Event()

    def connect_and_call(broker: RunningBroker) -> int:
        calls = 0
        while not over.is_set():
            assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
            calls += 1
        return calls

    with upgradable(tmp_path, workers=2) as broker, concurrent.futures.ThreadPoolExecutor(3) as callers:
        calls = [callers.submit(connect_and_call, broker) for _ in range(3)]
        try:
            upgrade(broker)
            assert broker.wait() == 0
        finally:
            over.set()
        assert all(call.result() > 0 for call in calls)


def test_the_successor_owns_the_sockets(tmp_path: Path) -> None:
    with upgradable(tmp_path) as broker:
        successor = upgrade(broker)
        broker.wait_for_status(lambda text: text == f"MAINPID={successor}")
        assert broker.wait() == 0
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        stop(successor)
        assert not broker.socket.exists()
        assert not (broker.runtime / "admin.sock").exists()


def test_a_call_that_runs_is_finished_by_the_old_program(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with upgradable(tmp_path, "--grace", "60") as broker, concurrent.futures.ThreadPoolExecutor(1) as callers:
        running = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        ((pid, _, _),) = gate.wait_entered()
        upgrade(broker)
        assert broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"] != str(pid)
        gate.open()
        assert running.result()
        assert broker.wait() == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (DIES, "exited with code 3 (no worker can start)"),
        ("import os\nos._exit(5)\n", "exited with code 1 (a fault, or it would not serve"),
        ("def broken(:\n", "exited with code 1 (a fault, or it would not serve what is served now)"),
    ],
)
def test_a_successor_that_would_break_a_bundle_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with upgradable(tmp_path, workers=2) as broker:
        before = {worker["pid"] for worker in broker.status()["workers"]}
        broker.add_file("hooks.py", content)
        assert said in refused(broker)
        assert "not upgraded, this program goes on" in broker.log
        assert broker.socket.exists()
        assert {worker["pid"] for worker in broker.status()["workers"]} == before
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        broker.add_file("hooks.py", SOURCE)
        assert upgrade(broker) != broker.pid
        assert broker.wait() == 0


def test_an_exclusive_bundle_is_taken_over(tmp_path: Path) -> None:
    """The old program's workers have its lock until they end, which is no reason to refuse the new program."""
    lock = "import fcntl\nlock = open({!r}, 'w')\nfcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    with upgradable(tmp_path, workers=2) as broker:
        broker.add_file("locked.py", lock.format(str(tmp_path / "lock")) + SOURCE)
        assert broker.call("add_header", bundle="locked").request.set_headers["X-Worker"]
        upgrade(broker)
        assert broker.call("add_header", bundle="locked").request.set_headers["X-Worker"]
        assert broker.wait() == 0
        assert broker.status()["dispatches"]["failed"] == 0


def test_a_starting_successor_takes_no_connection(tmp_path: Path) -> None:
    with upgradable(tmp_path) as broker:
        broker.add_file("hooks.py", "import time\ntime.sleep(600)\n")
        os.kill(broker.pid, signal.SIGUSR2)
        wait_until(lambda: broker.log.count("listening on") == 2, lambda: broker.log)
        # Each on a connection of its own: those that the new program took would wait for its workers.
        for _ in range(20):
            assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers


def test_a_stopping_broker_ends_its_successor(tmp_path: Path) -> None:
    with upgradable(tmp_path) as broker:
        broker.add_file("hooks.py", "import time\ntime.sleep(600)\n")
        os.kill(broker.pid, signal.SIGUSR2)
        broker.wait_for_log("is to take over")
        family = psutil.Process(broker.pid).children(recursive=True)
        assert broker.stop() == 0
        assert not psutil.wait_procs(family, PATIENCE)[1]


def test_a_handover_that_makes_no_sense_is_an_error(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path, env={"TYKPY_HANDOVER": "nonsense"}).unready()
    with broker:
        assert broker.wait() == 1
        assert "TYKPY_HANDOVER" in broker.log
