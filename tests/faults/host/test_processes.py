"""The broker's processes: titles, OOM scores, and signals to all of them at once."""

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE, Gate
from tykpy.broker.pool.process import execute
from tykpy.ipc.exits import WorkerExit

STARTS_CHILDREN = """
import os, signal, subprocess, sys, time
from tyk.decorators import Pre

@Pre
def shows_argv(request, session, spec):
    request.add_header("Argv", repr(sys.argv))
    return request, session

@Pre
def ends_a_program(request, session, spec):
    program = subprocess.Popen(["sleep", "600"])
    program.send_signal(int(request.get_header("Number")))
    request.add_header("Code", str(program.wait()))
    return request, session

@Pre
def ends_a_fork(request, session, spec):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    os.kill(pid, int(request.get_header("Number")))
    request.add_header("Code", str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    return request, session
"""
LEAVES_CHILDREN = """
import os, subprocess, time
from tyk.decorators import Pre

@Pre
def leaves_children(request, session, spec):
    # One in a session of its own, a grandchild that is an orphan at once, and a fork.
    left = [subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
    left.append(int(subprocess.check_output(["sh", "-c", "sleep 600 >&2 & echo $!"])))
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(600)
    request.add_header("Left", " ".join(map(str, [*left, pid])))
    return request, session
"""
SETS_OOM_SCORE = 'echo 700 >/proc/self/oom_score_adj && exec "$@"'
GROUP_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
HELD_AT_ITS_START = """
import time
from tykpy import cli
import tykpy.broker.start as start
def hold(config):
    while True:
        time.sleep(0.01)
start.Listeners.open = hold
cli.main(["broker", "--runtime-dir", {runtime!r}])
"""


def title(pid: int) -> tuple[str, str]:
    """Return what `ps` shows as a process's command, and as its name."""
    folder = Path(f"/proc/{pid}")
    return (folder / "cmdline").read_text().rstrip("\0"), (folder / "comm").read_text().strip()


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def family(broker: RunningBroker) -> tuple[int, list[int]]:
    """Return the zygote, and the workers by slot."""
    workers = [row["pid"] for row in broker.status()["workers"]]
    return psutil.Process(workers[0]).ppid(), workers


def test_titles_and_oom_scores_tell_processes_apart(tmp_path: Path) -> None:
    with running_broker(tmp_path, workers=2, files={"hooks.py": STARTS_CHILDREN}) as broker:
        zygote, workers = family(broker)
        assert title(broker.pid) == ("tykpy: broker",) * 2
        assert title(zygote) == ("tykpy: zygote",) * 2
        assert [title(pid) for pid in workers] == [("tykpy: worker 0",) * 2, ("tykpy: worker 1",) * 2]
        assert broker.call("shows_argv", bundle="hooks").request.set_headers["Argv"] == "['tykpy-worker']"
        assert oom_score(zygote) == oom_score(broker.pid)
        assert [oom_score(pid) for pid in workers] == [oom_score(broker.pid) + 500] * 2
        # One that is started by exec.
        os.kill(zygote, signal.SIGKILL)
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: family(broker)[1][0] not in (0, workers[0]), lambda: broker.log)
        wait_until(lambda: title(family(broker)[1][0]) == ("tykpy: worker 0",) * 2, lambda: broker.log)
        wait_until(lambda: oom_score(family(broker)[1][0]) == oom_score(broker.pid) + 500, lambda: broker.log)


def test_a_workers_oom_score_has_the_kernels_limit(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path)
    broker.prefix = ["sh", "-c", SETS_OOM_SCORE, "sh"]
    with broker:
        _, (worker,) = family(broker)
        assert (oom_score(broker.pid), oom_score(worker)) == (700, 1000)


def test_a_long_title_loses_its_spaces_in_the_name() -> None:
    program = (
        "from tykpy.ipc.title import *; set_title(worker_title(12)); import sys; print(sys.argv)\n"
        "print(open('/proc/self/comm').read(), open('/proc/self/cmdline').read(), sep='', end='')"
    )
    done = subprocess.run([sys.executable, "-c", program, "x"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "['-c', 'x']\ntykpy:worker12\ntykpy: worker 12\0"


@pytest.mark.parametrize("number", GROUP_SIGNALS)
@pytest.mark.parametrize("hook", ["gated", "gated_async"])
def test_a_signal_for_the_whole_group_ends_no_call(tmp_path: Path, number: signal.Signals, hook: str) -> None:
    """Such as Ctrl-C, a closed terminal, `kill -- -PGID`, and systemd's KillMode=control-group."""
    gate = Gate(tmp_path)
    broker = RunningBroker(tmp_path, "--timeout", "60", "--grace", "60")
    broker.prefix = ["setsid"]
    broker.add_file("hooks.py", SOURCE)
    with broker, concurrent.futures.ThreadPoolExecutor(1) as callers:
        running = callers.submit(broker.call, hook, bundle="hooks", headers=gate.headers())
        gate.wait_entered()
        os.killpg(broker.pid, number)
        wait_until(acted_on(broker, number), lambda: broker.log)
        gate.open()
        assert running.result()
        assert broker.stop() == 0
        assert "was ended by" not in broker.log


def acted_on(broker: RunningBroker, number: signal.Signals) -> Callable[[], bool]:
    said = "reloading" if number == signal.SIGHUP else "draining: 1 dispatch"
    return lambda: said in broker.log


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
def test_what_hooks_leave_running_ends_with_the_broker(tmp_path: Path, event_loop: str) -> None:
    """Also what a worker that has been killed has left; but not what was there before the broker."""
    other = tmp_path / "other"
    broker = RunningBroker(tmp_path, "--event-loop", event_loop)
    broker.prefix = ["sh", "-c", f'sleep 600 & echo $! >{other}; exec "$@"', "sh"]
    broker.add_file("hooks.py", LEAVES_CHILDREN)
    with broker:
        left: list[psutil.Process] = []
        for worker_is_killed in (True, False):
            headers = broker.call("leaves_children", bundle="hooks").request.set_headers
            left += [psutil.Process(int(pid)) for pid in headers["Left"].split()]
            if worker_is_killed:
                _, (worker,) = family(broker)
                os.kill(worker, signal.SIGKILL)
                broker.wait_for_log(f"(process {worker}) was ended by SIGKILL")
        assert all(process.is_running() for process in left)
        assert broker.stop() == 0
        assert not any(process.is_running() for process in left)
        assert "6 processes that workers had left are killed: " in broker.log
    spared = psutil.Process(int(other.read_text()))
    spared.kill()
    wait_until(lambda: not spared.is_running(), lambda: "the other child is gone")


def test_children_of_hooks_can_be_ended(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": STARTS_CHILDREN}) as broker:
        for hook in ("ends_a_program", "ends_a_fork"):
            for number in GROUP_SIGNALS:
                answer = broker.call(hook, bundle="hooks", headers=[("Number", str(int(number)))])
                assert answer.request.set_headers["Code"] == str(-number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_before_it_serves_stop_it_or_do_nothing(tmp_path: Path, number: signal.Signals) -> None:
    program = HELD_AT_ITS_START.format(runtime=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        others = [signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU]
        try:
            wait_until(lambda: {number, *others} <= caught(process.pid), lambda: "handlers")
            for other in others:
                process.send_signal(other)
            process.send_signal(number)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_signals_do_not_end_a_worker_that_has_no_handlers_yet() -> None:
    worker = execute(["too few arguments"], [])
    for number in (*GROUP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2):
        worker.send_signal(number)
    assert worker.wait(60) == WorkerExit.USAGE


def caught(pid: int) -> set[int]:
    """Return the signals that a process has handlers for."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(re.findall(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)[0], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
