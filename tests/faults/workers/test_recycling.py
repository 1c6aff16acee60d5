"""Workers replaced one by one, and a pool whose size changes, fail no call."""

import concurrent.futures
import itertools
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.broker import TYKPY, RunningBroker, running_broker, wait_until
from tests.support.bundles import write_bundle
from tests.support.hooks import SOURCE, Gate
from tests.support.peers.load import Load
from tykpy.broker.errors import RpcError
from tykpy.bundles.files.versions import MAX_SIZE

MIB = 1024 * 1024
HOARDING = """
from tyk.decorators import Pre
hoard = []

@Pre
def echo(request, session, spec):
    hoard.append(b"x" * (4 * 1024 * 1024))
    request.add_header("X-Worker", "-")
    request.add_header("Nonce", request.get_header("Nonce"))
    return request, session
"""
ECHO = """
import os
from tyk.decorators import Pre

@Pre
def echo(request, session, spec):
    request.add_header("X-Worker", str(os.getpid()))
    request.add_header("Nonce", request.get_header("Nonce"))
    return request, session
"""

ALL_BUT_THE_FIRST_DIE = """
import os

try:
    os.close(os.open({first!r}, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    born = int(open("/proc/self/stat").read().rpartition(") ")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    end = f"read now _ < /proc/uptime; echo {{born}} $now >> '{diary}'; kill -9 {{os.getpid()}}"
    os.system(f"(sleep 0.05; {{end}}) &")
"""
"""What dies writes down when it was started and when it ends, in seconds since the machine's start.

A process that is not its child kills it: nothing that the bundle leaves running is to be seen.
"""
CLOCK_TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds: how exactly the kernel says when a process was started."""

WAITING = """
import os, time
from tyk.decorators import Pre

@Pre
def echo(request, session, spec):
    time.sleep(0.002)  # one that only computes would keep to as many workers as there are CPUs
    request.add_header("X-Worker", str(os.getpid()))
    request.add_header("Nonce", request.get_header("Nonce"))
    return request, session
"""


def pids(broker: RunningBroker) -> set[int]:
    return {worker["pid"] for worker in broker.status()["workers"]}


def states(broker: RunningBroker) -> list[str]:
    return sorted(worker["state"] for worker in broker.status()["workers"])


def wait_for_states(broker: RunningBroker, *expected: str) -> None:
    wait_until(lambda: states(broker) == sorted(expected), lambda: f"{expected}: {broker.status()['workers']}")


@pytest.mark.parametrize(
    ("flags", "source", "reason"),
    [
        (("--max-requests", "100", "--max-requests-jitter", "50"), ECHO, "dispatches (--max-requests)"),
        (("--max-age", "1"), ECHO, "s (--max-age)"),
        (("--max-memory", str(200 * MIB)), HOARDING, "MiB of memory (--max-memory)"),
    ],
)
def test_workers_are_recycled_and_no_call_notices(
    tmp_path: Path, flags: tuple[str, ...], source: str, reason: str
) -> None:
    with running_broker(tmp_path, *flags, workers=2, files={"mine.py": source}) as broker:
        first = pids(broker)
        fewest, most = 2, 0
        with Load(broker.address, "echo", "mine", callers=2) as load:

            def both_replaced() -> bool:
                nonlocal fewest, most
                status = broker.status()
                now = Counter(worker["state"] for worker in status["workers"])
                fewest = min(fewest, now["ready"])
                most = max(most, now["ready"] + now["starting"] + now["standby"])
                return status["recycled"] >= 2 and not first & {worker["pid"] for worker in status["workers"]}

            wait_until(both_replaced, lambda: str(broker.status()))
        load.check()
        assert not load.errors
        assert fewest == 2
        assert most <= 3, "one after the other"
        assert reason in broker.log
        assert broker.status()["restarts"] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import os\nos._exit(5)\n", "bundle mine: the worker that loaded it exited with code 5"),
        ("def echo(:\n", "it could not load what the others serve"),
    ],
)
def test_a_worker_stays_if_its_replacement_is_no_good(tmp_path: Path, content: str, said: str) -> None:
    broker = RunningBroker(tmp_path, "--max-requests", "5")
    write_bundle(broker.bundles / "mine", {"middleware.py": ECHO})
    # Of a bundle this big no copy is kept that a replacement could load.
    with (broker.bundles / "mine" / "model.bin").open("wb") as model:
        model.truncate(MAX_SIZE + 1)
    with broker:
        broker.add_file("mine/middleware.py", content)
        (before,) = pids(broker)
        with Load(broker.address, "echo", "mine", callers=1) as load:
            broker.wait_for_log(f"goes on, its replacement did not start: {said}")
            load.wait_for_more(20)
        load.check()
        assert not load.errors
        assert set(load.seen) == {str(before)}


def by_signal(broker: RunningBroker, workers: int) -> None:
    wanted = broker.status()["wanted"]
    number = signal.SIGTTIN if workers > wanted else signal.SIGTTOU
    for expected in range(wanted, workers, 1 if workers > wanted else -1):
        os.kill(broker.pid, number)
        wait_until(lambda: broker.status()["wanted"] != expected, lambda: str(broker.status()))  # noqa: B023


def by_admin_socket(broker: RunningBroker, workers: int) -> None:
    with broker.admin() as client:
        assert client.call("scale", workers) == {"workers": workers}


def by_command(broker: RunningBroker, workers: int) -> None:
    command = [TYKPY, "scale", str(workers), "--runtime-dir", str(broker.runtime)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{workers} worker{'s' * (workers != 1)} from now on\n"


@pytest.mark.parametrize("scale", [by_signal, by_admin_socket, by_command])
def test_the_pool_grows_and_shrinks_while_calls_go_on(
    tmp_path: Path, scale: Callable[[RunningBroker, int], None]
) -> None:
    with running_broker(tmp_path, files={"mine.py": WAITING}) as broker:
        with Load(broker.address, "echo", "mine") as load:
            scale(broker, 3)
            wait_for_states(broker, "ready", "ready", "ready")
            three = pids(broker)
            wait_until(lambda: {int(pid) for pid in load.seen} == three, lambda: f"{load.seen}, {three}")
            scale(broker, 1)
            wait_for_states(broker, "ready")
            load.wait_for_more(50)
        load.check()
        assert not load.errors
        assert broker.status()["restarts"] == 0
        broker.wait_for_status(lambda text: "1 of 1 workers ready" in text)


def test_workers_that_are_too_many_finish_what_they_run(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(2) as callers,
    ):
        by_admin_socket(broker, 2)
        broker.wait_for_status(lambda text: "1 of 2 workers ready" in text)
        wait_for_states(broker, "ready", "ready")
        calls = [callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers()) for _ in range(2)]
        assert len({pid for pid, _, _ in gate.wait_entered(2)}) == 2
        by_admin_socket(broker, 1)
        wait_for_states(broker, "leaving", "ready")
        gate.open()
        assert all(call.result() for call in calls)
        wait_for_states(broker, "ready")


@pytest.mark.parametrize("workers", [0, -1, 513, "two", None])
def test_a_pool_of_an_impossible_size_is_refused(tmp_path: Path, workers: object) -> None:
    with running_broker(tmp_path, files={"mine.py": ECHO}) as broker:
        with broker.admin() as client, pytest.raises(RpcError, match="INVALID"):
            client.call("scale", workers)
        os.kill(broker.pid, signal.SIGTTOU)
        broker.wait_for_log("not scaled")
        assert states(broker) == ["ready"]


def test_early_deaths_delay_each_next_start(tmp_path: Path) -> None:
    first, diary = tmp_path / "first", tmp_path / "diary"
    files = {"mine.py": ECHO, "dying.py": ALL_BUT_THE_FIRST_DIE.format(first=str(first), diary=str(diary))}
    with RunningBroker(tmp_path, workers=2).unready(files) as broker:
        broker.wait_for_log("died before it answered anything")
        broker.wait_for_log("next try in 0.4 s")
        # The one that works goes on.
        assert broker.call("echo", bundle="mine", headers=[("Nonce", "-")]).request.set_headers["Nonce"] == "-"
        assert "was ended by SIGKILL" in broker.log
        lives = [tuple(map(float, line.split())) for line in diary.read_text().splitlines()]
        waits = [after[0] - before[1] for before, after in itertools.pairwise(lives)]
        assert len(waits) >= 3
        for wait, said in zip(waits, (0, 0.1, 0.2, 0.4), strict=False):
            assert wait >= said - CLOCK_TICK


def test_a_killed_worker_that_had_worked_is_replaced_at_once(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker:
        for _ in range(4):
            worker = broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"]
            os.kill(int(worker), signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(int(worker)), lambda: f"the end of {worker}")  # noqa: B023
        assert broker.call("add_header", bundle="hooks")
        assert "next try in" not in broker.log
        assert broker.status()["restarts"] == 4
