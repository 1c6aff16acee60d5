"""A child forked by plugin code ends when it returns from it, and other calls are not affected.

The children write how they ended to a file, and their parents what their exit codes were.
"""

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker
from tyk.proto.coprocess_object_pb2 import Event

CALLS = 8

SOURCE = '''
import asyncio, multiprocessing, os, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
from tyk.decorators import Event, Pre

class Own(BaseException):
    pass

WAYS = {
    "exit": lambda: sys.exit(3),
    "exit without a code": sys.exit,
    "exit with a text": lambda: sys.exit("enough"),
    "error": lambda: 1 / 0,
    "own error": lambda: (_ for _ in ()).throw(Own()),
    "return": lambda: None,
}

def fork(request):
    """Fork a child that comes back in the way that the request names; add its exit code."""
    pid = os.fork()
    if pid == 0:
        WAYS[request.get_header("Way")]()
        return False
    request.add_header("X-Exit", str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    return True

@Pre
def forks(request, session, spec):
    fork(request)
    return request, session

@Pre(on_error="continue")
def forks_and_continues(request, session, spec):
    fork(request)
    return request, session

@Pre
def forks_in_a_thread(request, session, spec):
    def run():
        if not fork(request):
            os._exit(0 if request.get_header("Way") == "return" else 1)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return request, session

@Pre
async def forks_async(request, session, spec):
    fork(request)
    return request, session

@Pre
async def forks_and_awaits(request, session, spec):
    """The child awaits something: the loop in it must not run what is the parent's to run."""
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(0)
    request.add_header("X-Exit", str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    return request, session

@Pre
async def forks_and_suspends(request, session, spec):
    waiting = asyncio.get_running_loop().create_future()
    pid = os.fork()
    if pid == 0:
        await waiting
    request.add_header("X-Exit", str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    return request, session

@Pre
def forks_in_an_executor(request, session, spec):
    """Calls wait in the executor while its only thread forks; each runs once."""
    with ThreadPoolExecutor(1) as pool:
        children = pool.submit(os.fork)
        ran = [pool.submit(open(request.get_header("Ran"), "ab", 0).write, b"1") for _ in range(3)]
        pid = children.result()
    os.waitpid(pid, 0)
    request.add_header("X-Ran", open(request.get_header("Ran")).read())
    return request, session

@Pre
async def forks_in_to_thread(request, session, spec):
    pid = await asyncio.to_thread(os.fork)
    request.add_header("X-Exit", str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    return request, session

@Pre
async def counts(request, session, spec):
    """Say on every step who runs it: it is this process for all of them."""
    pids = set()
    for _ in range(20):
        pids.add(os.getpid())
        open(request.get_header("Steps"), "a").write(f"{os.getpid()}\\n")
        await asyncio.sleep(0)
    request.add_header("X-Worker", str(pids))
    return request, session

@Pre
def well(request, session, spec):
    request.add_header("X-Worker", str(os.getpid()))
    return request, session

def square(number):
    return number * number

@Pre
def uses_processes(request, session, spec):
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        squares = pool.map(square, [1, 2, 3])
    process = context.Process(target=sys.exit, args=(4,))
    process.start()
    process.join()
    code = subprocess.run(["sh", "-c", "exit 5"], preexec_fn=os.getpid).returncode
    request.add_header("X-Found", f"{squares} {process.exitcode} {code}")
    return request, session

@Pre
def uses_the_gateway(request, session, spec):
    """A child may use what every plugin has, and end by itself."""
    from gateway import TykGateway as tyk
    tyk.store_data("parent", "1", 60)
    pid = os.fork()
    if pid == 0:
        tyk.log("from the child", "info")
        print("printed by the child")
        tyk.store_data("child", tyk.get_data("parent"), 60)
        os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    request.add_header("X-Found", f"{tyk.get_data('child')} {code}")
    return request, session

@Pre
def stores_in_a_child_first(request, session, spec):
    """Nobody has used the store before."""
    from gateway import TykGateway as tyk
    pid = os.fork()
    if pid == 0:
        tyk.store_data("first", "1", 60)
        os._exit(7 if tyk.get_data("first") == b"1" else 1)
    request.add_header("X-Exit", str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    return request, session

@Event
def on_event(event, spec):
    if os.fork() == 0:
        raise Own
'''

AT_IMPORT = """
import os, sys
from tyk.decorators import Pre

pid = os.fork()
if pid == 0:
    HOW
else:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@Pre
def hook(request, session, spec):
    request.add_header("X-Exit", str(code))
    return request, session
"""
EXIT_CODES = {
    "exit": "3",
    "exit without a code": "0",
    "exit with a text": "1",
    "error": "1",
    "own error": "1",
    "return": "0",
}
IMPORTS = {"returns": ("pass", "0"), "exits": ("sys.exit(3)", "3"), "raises": ("raise KeyboardInterrupt", "1")}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One worker for all tests here."""
    files = {"hooks.py": SOURCE} | {f"{name}.py": AT_IMPORT.replace("HOW", how) for name, (how, _) in IMPORTS.items()}
    with running_broker(tmp_path_factory.mktemp("forks"), "--timeout", "1000", files=files) as running:
        yield running


@pytest.fixture(autouse=True)
def others_do_not_notice(broker: RunningBroker) -> Iterator[None]:
    """Check that the same worker answers many calls afterwards, and that the ring is intact."""
    yield
    for _ in range(CALLS):
        broker.call("well", bundle="hooks")
    assert broker.status()["restarts"] == 0
    assert "something that cannot be" not in broker.log


def test_a_child_of_an_executor_runs_none_of_its_calls(broker: RunningBroker, tmp_path: Path) -> None:
    answer = broker.call("forks_in_an_executor", bundle="hooks", headers=[("Ran", str(tmp_path / "ran"))])
    assert answer.request.set_headers == {"X-Ran": "111"}
    assert broker.call("forks_in_to_thread", bundle="hooks").request.set_headers == {"X-Exit": "0"}


@pytest.mark.parametrize("hook", ["forks", "forks_and_continues", "forks_async"])
@pytest.mark.parametrize("way", list(EXIT_CODES))
def test_a_child_that_comes_back_ends(broker: RunningBroker, hook: str, way: str) -> None:
    answer = broker.call(hook, bundle="hooks", headers=[("Way", way)])
    assert answer.request.set_headers == {"X-Exit": EXIT_CODES[way]}


@pytest.mark.parametrize("way", ["return", "error"])
def test_a_child_of_a_thread_ends(broker: RunningBroker, way: str) -> None:
    answer = broker.call("forks_in_a_thread", bundle="hooks", headers=[("Way", way)])
    assert answer.request.set_headers["X-Exit"] in ("0", "1")


@pytest.mark.parametrize("hook", ["forks_and_awaits", "forks_and_suspends"])
def test_a_child_that_awaits_ends_and_runs_no_other_call(broker: RunningBroker, tmp_path: Path, hook: str) -> None:
    steps = tmp_path / "steps"
    worker = broker.call("well", bundle="hooks").request.set_headers["X-Worker"]
    with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
        counting = [
            pool.submit(broker.call, "counts", bundle="hooks", headers=[("Steps", str(steps))]) for _ in range(CALLS)
        ]
        for _ in range(CALLS):
            assert broker.call(hook, bundle="hooks").request.set_headers == {"X-Exit": "1"}
        for call in counting:
            assert call.result().request.set_headers == {"X-Worker": f"{{{worker}}}"}
    assert set(steps.read_text().split()) == {worker}


def test_children_of_libraries_work_as_ever(broker: RunningBroker) -> None:
    answer = broker.call("uses_processes", bundle="hooks")
    assert answer.request.set_headers == {"X-Found": "[1, 4, 9] 4 5"}


def test_children_of_libraries_work_in_every_thread(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--threads", "2", files={"hooks.py": SOURCE}) as broker:
        answers = [broker.call("uses_processes", bundle="hooks").request.set_headers["X-Found"] for _ in range(4)]
        assert answers == ["[1, 4, 9] 4 5"] * 4


def test_a_child_may_use_the_store_before_its_worker(broker: RunningBroker) -> None:
    answer = broker.call("stores_in_a_child_first", bundle="hooks")
    assert answer.request.set_headers == {"X-Exit": "7"}


def test_a_child_may_use_the_gateway(broker: RunningBroker) -> None:
    answer = broker.call("uses_the_gateway", bundle="hooks")
    assert answer.request.set_headers == {"X-Found": "b'1' 7"}
    broker.wait_for_log("from the child")
    broker.wait_for_log("printed by the child")


def test_a_child_of_an_event_handler_ends(broker: RunningBroker) -> None:
    broker.send_event(Event(payload=json.dumps({"message": {}, "handler_name": "on_event", "spec": {}})))


@pytest.mark.parametrize("bundle", list(IMPORTS))
def test_a_child_forked_at_import_does_not_load_bundles(broker: RunningBroker, bundle: str) -> None:
    assert broker.call("hook", bundle=bundle).request.set_headers == {"X-Exit": IMPORTS[bundle][1]}
