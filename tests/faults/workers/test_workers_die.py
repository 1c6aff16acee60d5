"""Workers that crash, hang or are killed fail the call that they run; a killed broker leaves nothing behind."""

import concurrent.futures
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.broker import RunningBroker, running_broker, stop_process, wait_until
from tests.support.hooks import SOURCE, Gate
from tykpy.client.grpc import GrpcCallError

FILES = {"hooks.py": SOURCE}
NEVER_RETURNS = """
import ctypes

@Pre
def asleep_with_the_interpreter_lock(request, session, spec):
    open(request.get_header("Entered"), "w").close()
    while True:  # a signal ends a sleep
        ctypes.PyDLL(None).sleep(3600)
"""


def error_of(broker: RunningBroker, hook: str) -> GrpcCallError:
    with pytest.raises(GrpcCallError) as caught:
        broker.call(hook, bundle="hooks")
    return caught.value


@pytest.mark.parametrize(("hook", "how"), [("dies", "exited with code 9"), ("kills_itself", "ended by SIGKILL")])
def test_a_hook_that_ends_its_process_costs_its_own_call(tmp_path: Path, hook: str, how: str) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        error = error_of(broker, hook)
        assert error.code.name == "INTERNAL"
        assert how in error.message
        assert hook in error.message
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        assert broker.status()["restarts"] == 1


def test_calls_that_waited_behind_a_crash_are_run_by_others(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, "--threads", "1", files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(4) as callers,
    ):
        running = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        ((pid, _, _),) = gate.wait_entered()
        waiting = [callers.submit(broker.call, "add_header", bundle="hooks") for _ in range(3)]
        wait_until(lambda: broker.status()["under_way"] == 4, lambda: str(broker.status()))
        os.kill(pid, signal.SIGKILL)
        assert isinstance(running.exception(), GrpcCallError)
        heirs = {call.result().request.set_headers["X-Worker"] for call in waiting}
    assert str(pid) not in heirs


def test_an_idempotent_hook_is_run_again_when_its_worker_dies(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        call = callers.submit(broker.call, "gated_again", bundle="hooks", headers=gate.headers())
        ((pid, _, _),) = gate.wait_entered()
        os.kill(pid, signal.SIGKILL)
        gate.wait_entered(2)
        gate.open()
        assert call.result()


def test_a_hung_worker_is_replaced_and_its_call_fails_once(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--hang-grace", "0.1", files=FILES) as broker:
        pid = broker.status()["workers"][0]["pid"]
        assert error_of(broker, "busy_too_long").code.name == "DEADLINE_EXCEEDED"
        wait_until(lambda: broker.status()["restarts"] == 1, lambda: str(broker.status()))
        wait_until(lambda: not psutil.pid_exists(pid), lambda: f"the end of process {pid}")
        assert "in busy_too_long" in broker.log  # the stacks
        broker.wait_for_status(lambda text: "1 of 1" in text)
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers


def test_a_call_of_a_stopped_worker_runs_elsewhere(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        pid = broker.status()["workers"][0]["pid"]
        stop_process(pid)
        answer = broker.call("add_header", bundle="hooks")
        assert answer.request.set_headers["X-Worker"] != str(pid)
        wait_until(lambda: not psutil.pid_exists(pid), lambda: f"the end of process {pid}")


def test_a_worker_that_is_slow_to_start_a_call_stays(tmp_path: Path) -> None:
    with (
        running_broker(tmp_path, "--hang-grace", "20", files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        pid = broker.status()["workers"][0]["pid"]
        stop_process(pid)
        call = callers.submit(broker.call, "add_header", bundle="hooks")
        wait_until(lambda: broker.status()["waiting"] == 1, lambda: str(broker.status()))
        os.kill(pid, signal.SIGCONT)
        assert call.result().request.set_headers["X-Worker"] == str(pid)
        assert broker.status()["restarts"] == 0


def test_a_hung_thread_does_not_take_its_neighbours_with_it(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    flags = ("--threads", "2", "--timeout", "20", "--hang-grace", "0")
    with (
        running_broker(tmp_path, *flags, files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        neighbour = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        ((pid, _, _),) = gate.wait_entered()
        assert error_of(broker, "busy_too_long").code.name == "DEADLINE_EXCEEDED"
        wait_until(lambda: broker.status()["restarts"] == 1, lambda: str(broker.status()))
        assert psutil.pid_exists(pid)
        gate.open()
        assert neighbour.result()
        wait_until(lambda: not psutil.pid_exists(pid), lambda: f"the end of process {pid}")


def test_a_killed_broker_leaves_no_process_and_no_ring(tmp_path: Path) -> None:
    """Only its live counters stay, which the next broker replaces: see test_stuck_brokers.py."""
    with running_broker(tmp_path, workers=2, files=FILES) as broker:
        children = psutil.Process(broker.pid).children(recursive=True)
        assert len(children) == 3  # they, and the zygote
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait()
        assert not psutil.wait_procs(children, 30)[1]
        assert not [name for name in os.listdir("/dev/shm") if name.startswith("tykpy-") and "-live-" not in name]
        # The socket file is stale now: the next broker takes its place.
        broker.start().wait_ready()
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers


@pytest.mark.parametrize("hook", ["busy_forever", "asleep_with_the_interpreter_lock"])
def test_a_hung_worker_does_not_outlive_its_broker(tmp_path: Path, hook: str) -> None:
    """Not even one in which no other Python thread can run."""
    entered = tmp_path / "entered"
    with (
        running_broker(tmp_path, files={"hooks.py": SOURCE + NEVER_RETURNS}) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        call = callers.submit(broker.call, hook, bundle="hooks", headers=[("Entered", str(entered))])
        wait_until(lambda: broker.status()["under_way"] == 1, lambda: str(broker.status()))
        wait_until(lambda: hook == "busy_forever" or entered.exists(), lambda: broker.log)
        children = psutil.Process(broker.pid).children(recursive=True)
        os.kill(broker.pid, signal.SIGKILL)
        assert not psutil.wait_procs(children, 30)[1]
        assert call.exception() is not None


def test_sigterm_finishes_running_calls_and_refuses_new_ones(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        call = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        gate.wait_entered()
        os.kill(broker.pid, signal.SIGTERM)
        broker.wait_for_status(lambda text: "STOPPING=1" in text)
        with pytest.raises((GrpcCallError, OSError)):
            broker.call("add_header", bundle="hooks")
        gate.open()
        assert call.result()
        assert broker.wait() == 0
        assert not broker.socket.exists()
        assert not (broker.runtime / "admin.sock").exists()


def test_calls_beyond_the_grace_are_ended(tmp_path: Path) -> None:
    with (
        running_broker(tmp_path, "--grace", "0.2", files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        call = callers.submit(broker.call, "busy_forever", bundle="hooks")
        wait_until(lambda: broker.status()["under_way"] == 1, lambda: str(broker.status()))
        assert broker.stop() == 0
        assert call.exception() is not None


def test_a_broker_whose_workers_cannot_start_says_why_and_exits(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("no key")
    with RunningBroker(tmp_path, "--public-key", str(key), workers=2).unready() as broker:
        assert broker.wait() == 3
        assert f"no worker can start: KeyFileError: {key}: not a public key" in broker.log
        assert "Traceback" not in broker.log


def test_an_address_in_use_is_an_error_that_says_by_whom(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as first:
        other = tmp_path / "other"
        other.mkdir()
        with RunningBroker(other, "--listen", first.address).unready() as second:
            assert second.wait() == 4
            assert str(first.pid) in second.log
            assert str(first.socket) in second.log
        assert "X-Worker" in first.call("add_header", bundle="hooks").request.set_headers
