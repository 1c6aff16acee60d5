"""What can be seen of a process from outside: whether it computes, waits, starves or is stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.broker import stop_process, wait_until
from tykpy.broker.router.cpu_use import IDLE_LOOKS, CpuUse

WAITS = "import time; time.sleep(600)"
COMPUTES = "while True: pass"
COMPUTES_IN_A_THREAD = "import threading; threading.Thread(target=exec, args=('while True: pass',)).start()"


@contextlib.contextmanager
def child(program: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def looks(use: CpuUse) -> bool:
    use.look(time.monotonic_ns())
    return use.waits


def test_a_process_that_waits_is_seen_to_wait() -> None:
    with child(WAITS) as pid:
        use = CpuUse(pid)
        wait_until(lambda: looks(use), lambda: "it waits")


@pytest.mark.parametrize("program", [COMPUTES, COMPUTES_IN_A_THREAD])
def test_a_process_that_computes_does_not_wait(program: str) -> None:
    with child(program) as pid:
        use = CpuUse(pid)
        wait_until(lambda: not use.sleeps(), lambda: "it runs")
        # Not even while others keep it from running.
        assert not any(looks(use) for _ in range(100))


def test_the_first_looks_find_no_process_idle() -> None:
    with child(WAITS) as pid:
        use = CpuUse(pid)
        wait_until(use.sleeps, lambda: "it sleeps")
        assert not any(looks(use) for _ in range(IDLE_LOOKS))


def test_a_process_that_is_stopped_does_not_wait() -> None:
    with child(WAITS) as pid:
        use = CpuUse(pid)
        wait_until(lambda: looks(use), lambda: "it waits")
        stop_process(pid)
        assert not looks(use)
        os.kill(pid, signal.SIGCONT)


def test_a_process_that_has_ended_does_not_wait() -> None:
    with child(WAITS) as pid:
        use = CpuUse(pid)
        wait_until(lambda: looks(use), lambda: "it waits")
    assert not looks(use)
