"""Workers that do not start in time, and a listening socket that outlives the broker."""

import concurrent.futures
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE
from tests.support.peers.load import METHOD
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import CallDescription, build_object
from tykpy.ipc.exits import WorkerExit

AFTER_LOADING = """
import os, sys, time
from tyk.decorators import Pre
born = int(open("/proc/self/stat").read().rpartition(") ")[2].split()[19]) / os.sysconf("SC_CLK_TCK")

def instead(*arguments):
    {does}

setattr(sys.modules["tykpy.workers.dispatch.prepare"].HookDispatcher, "__init__", instead)
"""
"""A bundle that is loaded, and ends or hangs its worker before that is ready: no bundle is to blame."""
HANGS = AFTER_LOADING.format(does="time.sleep(3600)")
DIES = AFTER_LOADING.format(does="os._exit(5)")
DIES_WHEN_TOLD = """while not os.path.exists({flag!r}):
        time.sleep(0.002)
    os._exit(5)"""
KEEPS_A_DIARY = """with open({diary!r}, "a") as diary:
        diary.write(f"{{born}} {{time.clock_gettime(time.CLOCK_BOOTTIME)}}\\n")
    os._exit(5)"""
"""When it was started and when it ends, in seconds since the machine's start."""
DAMAGES_ITS_RING = """
import os, sys
from tyk.decorators import Pre

@Pre
def damages(request, session, spec):
    frame = sys._getframe()
    while frame.f_code.co_name != "_serve":
        frame = frame.f_back
    frame.f_locals["channel"]._pop.__self__._generation += 1  # whatever comes is of another generation
    request.add_header("X-Worker", str(os.getpid()))
    return request, session
"""
CLOCK_TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds: how exactly the kernel says when a process was started."""
AS_SYSTEMD_DOES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""sd_listen_fds(3): the first descriptor is 3, and the number of the process says whom they are for."""


def test_workers_that_are_never_ready_end_the_broker(tmp_path: Path) -> None:
    with RunningBroker(tmp_path, "--ready-timeout", "0.5").unready({"slow.py": HANGS}) as broker:
        assert broker.wait() == 3
        assert "worker 0 did not start: not ready after 0.5 s (--ready-timeout); next try in" in broker.log
        assert "no worker can start: not ready after 0.5 s" in broker.log


def test_workers_serve_while_another_is_never_ready(tmp_path: Path) -> None:
    first_only = (
        "import os, time\n"
        "try:\n"
        f"    os.close(os.open({str(tmp_path / 'first')!r}, os.O_CREAT | os.O_EXCL))\n"
        "except FileExistsError:\n"
        "    import sys\n"
        "    prepare = sys.modules['tykpy.workers.dispatch.prepare']\n"
        "    prepare.HookDispatcher.__init__ = lambda *arguments: time.sleep(3600)\n"
    )
    files = {"hooks.py": SOURCE, "slow.py": first_only}
    with RunningBroker(tmp_path, "--ready-timeout", "5", workers=2).unready(files) as broker:
        broker.wait_for_log("did not start: not ready after 5 s (--ready-timeout); next try in 0.1 s")
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        assert [row["state"] for row in broker.status()["workers"]].count("ready") == 1
        broker.wait_for_log("slow.py")  # the stacks


def test_a_failed_start_is_retried_after_the_logged_delay(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    dies = AFTER_LOADING.format(does=KEEPS_A_DIARY.format(diary=str(diary)))
    with RunningBroker(tmp_path).unready({"dies.py": dies}) as broker:
        assert broker.wait() == 3
        lives = [tuple(map(float, line.split())) for line in diary.read_text().splitlines()]
        waits = [after[0] - before[1] for before, after in itertools.pairwise(lives)]
        for wait, said in zip(waits, (0.1, 0.2), strict=True):
            assert wait >= said - CLOCK_TICK
            assert f"next try in {said} s" in broker.log


def test_a_pool_that_has_served_is_never_hopeless(tmp_path: Path) -> None:
    with (
        running_broker(tmp_path, "--timeout", "60", files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        # A bundle that was served is not loaded in another version; a new one is.
        dies = broker.add_file("dies.py", DIES)
        os.kill(broker.status()["workers"][0]["pid"], signal.SIGKILL)
        waiting = callers.submit(broker.call, "add_header", bundle="hooks", timeout=60)
        # At the third of these a broker without a worker that ever was ready would end.
        broker.wait_for_log("next try in 0.8 s")
        dies.unlink()
        assert "X-Worker" in waiting.result().request.set_headers


def test_waiting_calls_fail_with_why_no_worker_starts(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    dies = AFTER_LOADING.format(does=DIES_WHEN_TOLD.format(flag=str(flag)))
    with (
        RunningBroker(tmp_path).unready({"dies.py": dies}) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        broker.wait_for_log("listening on")  # the socket file is there before connections are taken
        waiting = callers.submit(broker.call, "any")
        wait_until(lambda: broker.status()["waiting"] == 1, lambda: broker.log)
        flag.touch()
        error = waiting.exception()
        assert isinstance(error, GrpcCallError)
        assert error.code.name == "UNAVAILABLE"
        assert error.message.startswith("no worker can start: it exited with code 5")
        assert broker.wait() == 3


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
def test_a_fault_of_the_start_ends_the_broker(tmp_path: Path, event_loop: str) -> None:
    """Otherwise it would listen without ever having a worker."""
    program = (
        "from tykpy import cli; import tykpy.broker.pool.supervisor as it\n"
        "def fail(self): raise RuntimeError('planted')\n"
        "it.Supervisor._fill_all = fail\n"
        f"cli.main(['broker', '--runtime-dir', {str(tmp_path / 'r')!r}, '--event-loop', {event_loop!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "the start has failed: RuntimeError('planted')" in done.stderr
    assert not list((tmp_path / "r").glob("*.sock"))


@pytest.mark.parametrize("arguments", [[], ["1,2,3"]])
def test_a_worker_started_by_hand_explains_itself(arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "tykpy.workers", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == WorkerExit.USAGE
    assert done.stderr == "tykpy's workers are started by `tykpy broker`\n"


def test_calls_of_a_damaged_ring_run_elsewhere(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": SOURCE, "damage.py": DAMAGES_ITS_RING}) as broker:
        before = broker.call("damages", bundle="damage").request.set_headers["X-Worker"]
        assert broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"] != before
        assert f"(process {before}) exited with code 84 (its ring is damaged)" in broker.log
        wait_until(lambda: not psutil.pid_exists(int(before)), lambda: f"the end of {before}")


def test_a_systemd_socket_keeps_callers_during_a_restart(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        broker = RunningBroker(tmp_path)
        broker.add_file("hooks.py", SOURCE)
        listening.bind(str(broker.socket))
        listening.listen()
        inode = broker.socket.stat().st_ino
        broker.inherits = (listening.fileno(),)
        broker.prefix = [sys.executable, "-c", AS_SYSTEMD_DOES, str(listening.fileno())]
        with broker:
            before = worker_that_answers(broker)
            assert broker.stop() == 0
            assert broker.socket.stat().st_ino == inode
            answers: list[int] = []
            waiting = threading.Thread(target=lambda: answers.append(worker_that_answers(broker)))
            waiting.start()
            wait_until(lambda: connections_to(broker.socket) > 0, lambda: "a connection that nobody has accepted")
            broker.forget_status()
            broker.start().wait_ready()
            waiting.join()
            assert answers != [before]
            assert broker.socket.stat().st_ino == inode


def worker_that_answers(broker: RunningBroker) -> int:
    call = build_object(CallDescription("add_header", bundle="hooks")).SerializeToString()
    with GrpcClient(broker.address) as client:
        answer = Object.FromString(client.call(METHOD, call, timeout=60))
    return int(answer.request.set_headers["X-Worker"])


def connections_to(path: Path) -> int:
    """Count the connections to a socket, served or not."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()]
    return sum(row[-1] == os.fspath(path) and row[3] == "00000000" for row in rows)
