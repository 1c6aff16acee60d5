"""Signals sent to a worker are told from its own faults: innocent hooks are not blamed."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE, Gate
from tykpy.client.grpc import GrpcCallError

SENT: Final = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGXCPU")
FAULTS: Final = """
import ctypes, faulthandler, os, signal, threading
from tyk.decorators import Pre

LIBC = ctypes.CDLL(None)

@Pre
def reads_nowhere(request, session, spec):
    ctypes.string_at(0)

@Pre
def aborts(request, session, spec):
    LIBC.abort()

@Pre
def divides(request, session, spec):
    faulthandler._sigfpe()

@Pre
async def reads_nowhere_async(request, session, spec):
    ctypes.string_at(0)

@Pre
def signals_itself(request, session, spec):
    os.kill(os.getpid(), signal.SIGSEGV)
    signal.pause()

@Pre
def has_a_child_that_is_signalled(request, session, spec):
    child = os.fork()
    if not child:
        try:
            signal.raise_signal(signal.SIGSEGV)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV
    ctypes.string_at(0)
"""
FILES: Final = {"hooks.py": SOURCE, "faults.py": FAULTS}
OWN: Final = {
    "reads_nowhere": "SIGSEGV",
    "reads_nowhere_async": "SIGSEGV",
    "aborts": "SIGABRT",
    "divides": "SIGFPE",
    "has_a_child_that_is_signalled": "SIGSEGV",
}


def error_of(broker: RunningBroker, hook: str) -> str:
    # A worker that has answered something is replaced at once.
    broker.call("add_header", bundle="hooks")
    with pytest.raises(GrpcCallError) as caught:
        broker.call(hook, bundle="faults")
    return caught.value.message


def signal_in_a_hook(broker: RunningBroker, folder: Path, name: str) -> str:
    """Send a signal to a worker that runs a hook; return the caller's error."""
    broker.call("add_header", bundle="hooks")
    gate = Gate(folder, name)
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        call = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        ((pid, _, _),) = gate.wait_entered()
        os.kill(pid, signal.Signals[name])
        return str(call.exception())


def test_hooks_are_not_blamed_for_sent_signals(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--limit-cpu", "3600", "--threads", "2", files=FILES) as broker:
        for name in SENT:
            said = signal_in_a_hook(broker, tmp_path, name)
            assert f"was ended by {name}, which it was sent while it ran this hook" in said
        assert broker.status()["quarantine"] == {"frames": [], "hooks": []}


def test_faults_are_blamed_on_what_ran(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        for hook, name in OWN.items():
            for _ in range(2):
                assert f"was ended by {name} while it ran this hook" in error_of(broker, hook)
            assert error_of(broker, hook).startswith("quarantined")
            assert f"in {hook}" in broker.log
        for _ in range(3):
            assert "was ended by SIGSEGV, which it was sent" in error_of(broker, "signals_itself")
        assert "signals_itself" not in str(broker.status()["quarantine"])


def test_a_cpu_signal_without_a_limit_was_sent(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        assert "was ended by SIGXCPU, which it was sent" in signal_in_a_hook(broker, tmp_path, "SIGXCPU")


def test_hooks_whose_worker_was_stopped_are_not_blamed(tmp_path: Path) -> None:
    flags = ("--timeout", "0.5", "--hang-grace", "0")
    with (
        running_broker(tmp_path, *flags, files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        for number in range(3):
            stopped = stop_in_a_hook(broker, callers, tmp_path, number)
            wait_until(lambda pid=stopped: not psutil.pid_exists(pid), lambda: broker.log)  # type: ignore[misc]
        assert broker.log.count("somebody has stopped it (SIGSTOP)") >= 3
        assert broker.status()["quarantine"] == {"frames": [], "hooks": []}


def stop_in_a_hook(
    broker: RunningBroker, callers: concurrent.futures.ThreadPoolExecutor, folder: Path, number: int
) -> int:
    """Stop a worker while it runs a hook; repeat a call that expires before its worker is ready."""
    for attempt in range(1000):
        gate = Gate(folder, f"gate{number}.{attempt}")
        entered = folder / f"gate{number}.{attempt}.entered"
        call = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        while not call.done():
            if entered.exists() and entered.read_text().endswith("\n"):
                ((pid, _, _),) = gate.wait_entered()
                os.kill(pid, signal.SIGSTOP)
                assert "DEADLINE_EXCEEDED" in str(call.exception()) or "deadline" in str(call.exception())
                return pid
            time.sleep(0.002)
    raise AssertionError("no call was run")


def test_without_a_channel_the_default_ends_the_process() -> None:
    program = (
        "from tykpy.workers.process.signals import watch_signals; watch_signals(); print('up', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSEGV)
        assert process.wait(60) == -signal.SIGSEGV
