"""`tykpy stacks`: all threads and tasks of the broker and its workers, also of a worker that does not answer."""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, running_broker, stop_process
from tests.support.hooks import SOURCE, Gate

HOOKS: Final = (
    SOURCE
    + '''
import ctypes

@Pre
def keeps_the_interpreter(request, session, spec):
    """Run a shell without releasing the interpreter lock, until the test opens the gate."""
    entered, gate = request.get_header("Entered"), request.get_header("Gate")
    script = f"echo {os.getpid()} 0 - >> {entered}; until [ -e {gate} ]; do sleep 0.01; done"
    ctypes.PyDLL(None).system(script.encode())
    return request, session
'''
)
SECRET: Final = "a-token-of-a-client"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    flags = ("--metrics", "tcp://127.0.0.1:0", "--threads", "2", "--timeout", "60s")
    with running_broker(tmp_path_factory.mktemp("broker"), *flags, workers=2, files={"hooks.py": HOOKS}) as running:
        yield running


@pytest.fixture
def calls() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor() as executor:
        yield executor


def stacks(broker: RunningBroker, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [TYKPY, "stacks", *arguments, "--runtime-dir", str(broker.runtime)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def slot_of(broker: RunningBroker, pid: int) -> int:
    (slot,) = [worker["slot"] for worker in broker.status()["workers"] if worker["pid"] == pid]
    assert isinstance(slot, int)
    return slot


def test_threads_and_tasks_of_all_processes_are_shown(
    broker: RunningBroker, calls: concurrent.futures.ThreadPoolExecutor, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    headers = [*gate.headers(SECRET), ("Authorization", SECRET)]
    try:
        running = [calls.submit(broker.call, hook, headers=headers) for hook in ("gated", "gated_async")]
        gate.wait_entered(2)
        done = stacks(broker)
    finally:
        gate.open()
    for call in running:
        call.result(PATIENCE)
    assert done.returncode == 0, done.stderr
    shown, _, last = done.stdout.partition("\nbroker ")
    _, *workers = f"\n{shown}".split("\nworker ")
    assert last.startswith(f"(process {broker.pid})\n  thread MainThread\n")
    assert "  thread http\n" in last
    for coroutine in ("Broker.serve", "HttpListener._serve"):
        assert f", in {coroutine}\n" in last.partition("  task ")[2]
    assert [text.partition(" ")[0] for text in workers] == ["0", "1"]
    everything = "".join(workers)
    assert ", in WorkerLoop._listen_when_begun\n" in everything
    assert ", in enter_gate\n" in everything
    assert ", in gated_async\n" in everything.partition("  task ")[2]
    for kind, hook in (("thread", "gated"), ("task", "gated_async")):
        # First in its worker, and without what leads to it.
        place = rf"\w+\n  {kind} [\w-]+ \(hook {hook} of bundle hooks.py, \d+\.\d s\)\n"
        assert re.search(
            place + rf'    \.\.\. \d+ frames that called these\n    File ".*", line \d+, in {hook}\n', everything
        )
    assert SECRET not in done.stdout


def test_one_worker_is_shown_alone(broker: RunningBroker) -> None:
    done = stacks(broker, "1")
    assert done.stdout.startswith("worker 1 (process ")
    assert "broker" not in done.stdout.partition("\n")[0]
    assert "worker 0" not in done.stdout
    answer = json.loads(stacks(broker, "1", "--json").stdout)
    assert answer["broker"] == []
    assert [row["slot"] for row in answer["workers"]] == [1]


def test_a_number_without_a_worker_is_refused(broker: RunningBroker) -> None:
    done = stacks(broker, "7")
    assert done.returncode == 1
    assert "there is no worker 7" in done.stderr


def test_a_worker_that_keeps_the_interpreter_lock_is_shown(
    broker: RunningBroker, calls: concurrent.futures.ThreadPoolExecutor, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    try:
        call = calls.submit(broker.call, "keeps_the_interpreter", headers=gate.headers())
        pid = gate.wait_entered()[0][0]
        slot = slot_of(broker, pid)
        asked = [calls.submit(stacks, broker) for _ in range(2)]
        for done in (one.result() for one in asked):
            silent, other = sorted(
                f"\n{done.stdout}".split("\nworker ")[1:], key=lambda text: not text.startswith(str(slot))
            )
            assert silent.startswith(f"{slot} (process {pid}), ready: does not answer: it hangs, or a hook keeps")
            assert "most recent call first" in silent
            assert " in keeps_the_interpreter\n" in silent
            assert "does not answer" not in other
    finally:
        gate.open()
    call.result(PATIENCE)
    assert "thread MainThread" in stacks(broker, str(slot)).stdout


def test_a_stopped_worker_is_told(broker: RunningBroker) -> None:
    worker = broker.status()["workers"][0]
    stop_process(worker["pid"])
    try:
        done = stacks(broker, str(worker["slot"]))
    finally:
        os.kill(worker["pid"], signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    assert "does not answer: somebody has stopped it (SIGSTOP)" in done.stdout
