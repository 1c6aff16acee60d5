"""`--threads auto`, the default: a worker runs hooks that wait at the same time, and hooks that compute one by one."""

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.hooks import SOURCE, Gate
from tests.support.peers.load import Load
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.client.grpc import GrpcCallError

HOOKS: Final = '''
import hashlib, itertools, time
from tyk.decorators import Pre

running = {}

def at_once(request, session, run):
    """Run, and answer with how many calls of this hook this worker ran at most meanwhile."""
    calls = running.setdefault(run.__name__, set())
    me = object()
    calls.add(me)
    most = len(calls)
    run()
    most = max(most, len(calls))
    calls.discard(me)
    request.add_header("Nonce", request.get_header("Nonce"))
    request.add_header("At-Once", str(most))
    return request, session

def wait(): time.sleep(0.02)

def compute():
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass

def digest():
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        hashlib.sha256(bytes(100_000))

count = itertools.count()

def sometimes_wait():
    if next(count) % 4 == 0:
        time.sleep(0.02)

@Pre
def edits(request, session, spec):
    return at_once(request, session, int)

@Pre
def waits(request, session, spec):
    return at_once(request, session, wait)

@Pre
def computes(request, session, spec):
    return at_once(request, session, compute)

@Pre
def digests(request, session, spec):
    return at_once(request, session, digest)

@Pre
def sometimes_waits(request, session, spec):
    return at_once(request, session, sometimes_wait)

@Pre
def usually_fast(request, session, spec):
    time.sleep(float(request.get_header("Seconds")))
    return request, session
'''
GATED_EVENT: Final = """
from tyk.decorators import Event
import os, time

@Event
def on_event(event, spec):
    with open(event.message.Meta["entered"], "a") as entered:
        entered.write(f"{os.getpid()} 0 -\\n")
    while not os.path.exists(event.message.Meta["gate"]):
        time.sleep(0.002)
"""
FILES: Final = {"threads.py": HOOKS}
SHEDS: Final = ("--queue-wait", "0.5")
"""The default of the option; test brokers otherwise do not shed load."""
SHEDS_LATE: Final = ("--queue-wait", "3")
"""For calls that must not be shed on a busy machine: it may take a second there until hooks that wait share workers."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A broker with two workers."""
    folder = tmp_path_factory.mktemp("threads")
    with running(folder, *SHEDS_LATE, workers=2) as broker:
        yield broker


def running(folder: Path, *flags: str, workers: int = 1) -> RunningBroker:
    broker = RunningBroker(folder, *flags, workers=workers)
    for name, text in {**FILES, "hooks.py": SOURCE, "events.py": GATED_EVENT}.items():
        broker.add_file(name, text)
    return broker


def press(broker: RunningBroker, *hooks: str, callers: int = 16, calls: int = 300) -> list[Load]:
    """Call these hooks at the same time until `calls` calls of each have ended, and check that none fails."""
    loads = [Load(broker.address, hook, "threads", callers, header="At-Once") for hook in hooks]
    for load in loads:
        load.__enter__()
    try:
        for load in loads:
            load.wait_for_more(calls)
    finally:
        for load in loads:
            load.__exit__(None, None, None)
    for load in loads:
        load.check()
        assert not load.errors, str(load)
    return loads


def most_at_once(load: Load) -> int:
    return max(map(int, load.seen))


def threads_of(broker: RunningBroker) -> list[int]:
    return [row["threads"] for row in broker.status()["workers"]]


def test_short_hooks_need_no_second_thread(tmp_path: Path) -> None:
    """A delayed first call may start a thread, which then stays: up to five brokers get a chance."""
    for attempt in map(str, range(5)):
        (tmp_path / attempt).mkdir()
        with running(tmp_path / attempt, workers=2) as broker:
            (load,) = press(broker, "edits", calls=2_000)
            assert most_at_once(load) == 1
            if threads_of(broker) == [1, 1]:
                return
    pytest.fail("every broker has started a second thread")


def test_hooks_that_compute_run_one_at_a_time_also_on_few_cpus(tmp_path: Path) -> None:
    """Four workers and the callers compete for the CPUs."""
    with running(tmp_path, workers=4) as broker:
        loads = press(broker, "computes", "digests", callers=8, calls=100)
        assert [most_at_once(load) for load in loads] == [1, 1]
        assert threads_of(broker) == [1, 1, 1, 1]
        # Hooks that wait share the workers with them.
        waiting, *computing = press(broker, "waits", "computes", "edits", callers=8, calls=100)
        assert most_at_once(waiting) > 1
        assert most_at_once(computing[0]) == 1


def test_calls_of_a_fast_hook_that_suddenly_waits_succeed(broker: RunningBroker) -> None:
    for _ in range(60):
        broker.call("usually_fast", bundle="threads", headers=[("Seconds", "0")])
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        long = [("Seconds", "1.5")]
        calls = [callers.submit(broker.call, "usually_fast", bundle="threads", headers=long) for _ in range(4)]
        # Calls of other hooks go on meanwhile.
        wait_until(lambda: broker.status()["under_way"] == 4, lambda: str(broker.status()))
        press(broker, "edits", calls=100)
        assert all(call.result() for call in calls)


def test_64_clients_of_a_hook_that_waits_get_no_error(broker: RunningBroker) -> None:
    (load,) = press(broker, "waits", callers=64, calls=3_000)
    assert most_at_once(load) > 8
    assert max(threads_of(broker)) <= 32


def test_a_hook_that_waits_now_and_then_shares_its_worker(broker: RunningBroker) -> None:
    (load,) = press(broker, "sometimes_waits", callers=32, calls=1_000)
    assert most_at_once(load) > 2


def test_a_chain_that_waits_shares_its_worker(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    source = SOURCE[: SOURCE.index("@Pre\n")] + SOURCE[SOURCE.index("@Pre\ndef gated(") : SOURCE.index("@Pre(idemp")]
    broker = RunningBroker(tmp_path)
    broker.add_file("chained.py", source)
    with broker, concurrent.futures.ThreadPoolExecutor(3) as callers:
        calls = [callers.submit(broker.call, "*", bundle="chained", headers=gate.headers()) for _ in range(3)]
        entered = gate.wait_entered(3)
        gate.open()
        assert all(call.result() for call in calls)
    assert len({thread for _, thread, _ in entered}) == 3


def test_an_event_handler_that_waits_shares_its_worker(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    (_, entered), (_, opened), _ = gate.headers()
    payload = {"message": {"Meta": {"entered": entered, "gate": opened}}, "handler_name": "on_event", "spec": {}}
    with running(tmp_path) as broker, concurrent.futures.ThreadPoolExecutor(3) as callers:
        sent = [callers.submit(broker.send_event, Event(payload=json.dumps(payload))) for _ in range(3)]
        gate.wait_entered(3)
        gate.open()
        for one in sent:
            one.result()


def test_no_more_threads_are_started_than_there_may_be(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running(tmp_path, "--threads-max", "2", "--timeout", "60", *SHEDS) as broker,
        concurrent.futures.ThreadPoolExecutor(3) as callers,
    ):
        calls = [callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers()) for _ in range(3)]
        gate.wait_entered(2)
        # The third call finds no free thread, and fails after --queue-wait.
        wait_until(lambda: any(call.done() for call in calls), lambda: str(broker.status()))
        assert threads_of(broker) == [2]
        gate.open()
        errors = [error for call in calls if (error := call.exception()) is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], GrpcCallError)
    assert "--queue-wait; gated)" in errors[0].message


def test_a_shared_worker_answers_all_calls_before_it_ends(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with running(tmp_path, "--timeout", "60") as broker, concurrent.futures.ThreadPoolExecutor(5) as callers:
        calls = [callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers()) for _ in range(4)]
        gate.wait_entered(4)
        with broker.admin() as client:
            replaced = callers.submit(client.call, "reload")
            wait_until(lambda: len(broker.status()["workers"]) == 2, lambda: str(broker.status()))
            gate.open()
            assert replaced.result()
        assert all(call.result() for call in calls)
        wait_until(lambda: len(broker.status()["workers"]) == 1, lambda: str(broker.status()))
        assert broker.status()["restarts"] == 0


def test_an_overload_is_logged_once_with_hook_and_advice(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running(tmp_path, "--threads", "1", "--queue-wait", "0.1") as broker,
        concurrent.futures.ThreadPoolExecutor(3) as callers,
    ):
        calls = [callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers()) for _ in range(3)]
        wait_until(lambda: sum(call.done() for call in calls) == 2, lambda: str(broker.status()))
        gate.open()
        messages = [error.message for call in calls if isinstance(error := call.exception(), GrpcCallError)]
        assert all("--queue-wait; gated)" in message for message in messages)
        broker.wait_for_log("calls of gated fail: waited")
        assert broker.log.count("calls of gated fail: waited") == 1
        assert "--threads auto" in broker.log
