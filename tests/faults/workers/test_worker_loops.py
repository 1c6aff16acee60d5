"""The worker's own loops survive what plugins do around them; if one fails, the worker is replaced."""

import concurrent.futures
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import WELL
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.client.grpc import GrpcCallError

MIB = 1024 * 1024

NEIGHBOUR = (
    WELL
    + """
from tyk.decorators import Event

@Event
def on_event(event, spec):
    open(event.message.Meta.path, "w").close()
"""
)

SIGNALS = """
import _thread, os, signal, threading, time
from gateway import TykGateway as tyk
from tyk.decorators import Pre

class Own(BaseException):
    pass

def raises(number, frame):
    raise Own

def own_handler(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGUSR1, raises)
assert signal.getsignal(signal.SIGUSR1) is raises
assert signal.signal(signal.SIGUSR1, raises) is raises

@Pre
def arms(request, session, spec):
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, own_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    return request, session

@Pre
def waits(request, session, spec):
    signal.signal(signal.SIGALRM, own_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while True:
        time.sleep(0.01)

@Pre
def interrupts(request, session, spec):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _thread.interrupt_main()
    while True:
        time.sleep(0.01)
"""

TIMERS = """
import os, signal, subprocess, sys, time
from tyk.decorators import Pre

@Pre
def leaves_a_timer(request, session, spec):
    signal.setitimer(getattr(signal, request.get_header("Timer")), 0.001, 0.001)
    return request, session

@Pre
def uses_up_time(request, session, spec):
    # Time of the program itself, for ITIMER_VIRTUAL: looking at a clock of the process takes the system's.
    end = time.process_time() + 0.1
    while time.process_time() < end:
        sum(range(10_000))
    return request, session

@Pre
def starts_children(request, session, spec):
    alarm = "import os, signal; signal.alarm(1); signal.pause()"
    codes = [subprocess.run([sys.executable, "-c", alarm]).returncode]
    pid = os.fork()
    if pid == 0:
        signal.alarm(1)
        signal.pause()
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    request.add_header("X-Codes", str(codes))
    return request, session
"""

ENTERS = """
import os, time
from tyk.decorators import Pre

@Pre
def enters(request, session, spec):
    open(request.get_header("Entered"), "w").close()
    while not os.path.exists(request.get_header("Gate")):
        time.sleep(0.002)
    return request, session
"""

PATCHES = """
import _thread, asyncio, os, queue, select, selectors, socket, threading, time

def broken(*arguments, **options):
    raise RuntimeError("replaced by a library")

class Broken:
    __init__ = broken

def never(*arguments, **options):
    return 1

for module in (threading, _thread):
    for name in ("start_new_thread", "_start_new_thread", "start_joinable_thread", "_start_joinable_thread"):
        if hasattr(module, name):
            setattr(module, name, never)
for name in ("Lock", "RLock", "_allocate_lock", "Condition", "Event", "Semaphore", "local", "Thread"):
    setattr(threading, name, Broken)
for name in ("SimpleQueue", "Queue"):
    setattr(queue, name, Broken)
for name in ("poll", "epoll", "select"):
    setattr(select, name, broken)
for name in ("DefaultSelector", "EpollSelector", "SelectSelector", "PollSelector"):
    setattr(selectors, name, Broken)
for name in ("socket", "socketpair", "create_connection"):
    setattr(socket, name, Broken)
for name in ("read", "write", "pread", "eventfd_write", "fork", "waitpid", "close"):
    setattr(os, name, broken)
for module in (asyncio, asyncio.tasks):
    module.Task = Broken
for name in ("sleep", "monotonic", "monotonic_ns", "time", "process_time"):
    setattr(time, name, broken)

from tyk.decorators import Pre

@Pre
def patched(request, session, spec):
    return request, session
"""

GEVENT = "import gevent.monkey; gevent.monkey.patch_all()"
FREEZE = "import freezegun; frozen.append(freezegun.freeze_time('2012-01-14')); frozen[-1].start()"
LIBRARY = """
import asyncio, time
from tyk.decorators import Pre

frozen = []
def apply():
    CODE

@Pre
def applies(request, session, spec):
    apply()
    time.sleep(0.001)
    return request, session

@Pre
async def applies_async(request, session, spec):
    apply()
    await asyncio.sleep(0.001)
    return request, session
"""

MEMORY = """
from tyk.decorators import Pre

kept = []

def keep(left):
    size = 1 << 28
    while size > left:
        try:
            kept.append(bytearray(size))
        except MemoryError:
            size //= 2

@Pre
def keeps(request, session, spec):
    keep(1 << 20)
    return request, session

@Pre
def keeps_all(request, session, spec):
    keep(16)
    return request, session

@Pre
def frees(request, session, spec):
    kept.clear()
    return request, session

@Pre
def changes(request, session, spec):
    request.object.raw_body = b"y" + request.object.raw_body[1:]
    return request, session
"""

LOOPS = """
import asyncio, ctypes, gc, os, sys, threading
from tyk.decorators import Pre

def raise_in(name):
    for thread in threading.enumerate():
        if thread.name == name:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
            return
    raise LookupError(name)

@Pre
def ends(request, session, spec):
    raise_in(request.get_header("Thread"))
    return request, session

@Pre
async def ends_the_selector(request, session, spec):
    asyncio.get_running_loop()._selector.close()
    await asyncio.sleep(3600)
"""


@pytest.fixture(scope="module")
def signalled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One worker with one thread, the main thread, whose bundle installs handlers."""
    files = {"signals.py": SIGNALS, "neighbour.py": NEIGHBOUR, "enters.py": ENTERS}
    flags = ("--threads", "1", "--timeout", "1000")
    with running_broker(tmp_path_factory.mktemp("signals"), *flags, files=files) as running:
        yield running


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One worker with little memory."""
    files = {"memory.py": MEMORY, "neighbour.py": NEIGHBOUR}
    flags = ("--limit-memory", str(600 * MIB), "--timeout", "1000")
    with running_broker(tmp_path_factory.mktemp("memory"), *flags, files=files) as running:
        yield running


def worker_of(broker: RunningBroker, hook: str = "well") -> int:
    return int(broker.call(hook, bundle="neighbour").request.set_headers["X-Worker"])


def error_of(broker: RunningBroker, hook: str, bundle: str) -> str:
    with pytest.raises(GrpcCallError) as caught:
        broker.call(hook, bundle=bundle)
    return caught.value.message


def logged(broker: RunningBroker, count: int, text: str) -> None:
    wait_until(lambda: broker.log.count(text) >= count, lambda: f"{count} times {text!r} in:\n{broker.log}")


def test_a_handler_that_raises_between_hooks_costs_nothing(signalled: RunningBroker) -> None:
    pid = worker_of(signalled)
    text = "a handler of bundle signals.py for SIGUSR1 failed between its hooks"
    for count in range(1, 4):
        os.kill(pid, signal.SIGUSR1)
        logged(signalled, count, text)
        assert worker_of(signalled) == worker_of(signalled, "well_async") == pid


def test_a_handler_installed_by_a_hook_costs_nothing_later(signalled: RunningBroker) -> None:
    pid = worker_of(signalled)
    for count in range(1, 4):
        signalled.call("arms", bundle="signals")
        logged(signalled, count, "a handler of bundle signals.py for SIGALRM failed between its hooks")
        assert worker_of(signalled) == pid


def test_a_handler_does_not_interrupt_a_hook_of_another_bundle(signalled: RunningBroker, tmp_path: Path) -> None:
    pid = worker_of(signalled)
    headers = [("Entered", str(tmp_path / "entered")), ("Gate", str(tmp_path / "gate"))]
    before = signalled.log.count("for SIGUSR1 failed between its hooks")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(signalled.call, "enters", bundle="enters", headers=headers)
        wait_until((tmp_path / "entered").exists, lambda: signalled.log)
        os.kill(pid, signal.SIGUSR1)
        logged(signalled, before + 1, "for SIGUSR1 failed between its hooks")
        (tmp_path / "gate").touch()
        waiting.result()


@pytest.mark.parametrize("hook", ["waits", "interrupts"])
def test_a_handler_interrupts_a_hook_of_its_own_bundle(signalled: RunningBroker, hook: str) -> None:
    pid = worker_of(signalled)
    for _ in range(3):
        assert "failed: KeyboardInterrupt" in error_of(signalled, hook, "signals")
    assert worker_of(signalled) == pid


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One worker whose bundle sets timers without handlers."""
    files = {"timers.py": TIMERS, "neighbour.py": NEIGHBOUR}
    with running_broker(tmp_path_factory.mktemp("timers"), "--timeout", "1000", files=files) as running:
        yield running


@pytest.mark.parametrize(
    ("timer", "name"), [("ITIMER_REAL", "SIGALRM"), ("ITIMER_VIRTUAL", "SIGVTALRM"), ("ITIMER_PROF", "SIGPROF")]
)
def test_a_timer_that_a_hook_leaves_costs_nothing(timed: RunningBroker, timer: str, name: str) -> None:
    pid = worker_of(timed)
    timed.call("leaves_a_timer", bundle="timers", headers=[("Timer", timer)])
    timed.call("uses_up_time", bundle="timers")
    timed.wait_for_log(f"a timer of plugin code has run out, and there is no handler for {name}")
    assert worker_of(timed) == pid


def test_timers_end_children_as_usual(timed: RunningBroker) -> None:
    assert timed.call("starts_children", bundle="timers").request.set_headers["X-Codes"] == "[-14, -14]"


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_library_that_replaces_threads_stops_nobody(tmp_path: Path, threads: str) -> None:
    files = {"a_library.py": PATCHES, "neighbour.py": NEIGHBOUR}
    flags = ("--threads", threads, "--timeout", "1000", "--limit-cpu", "100")
    with running_broker(tmp_path, *flags, files=files) as broker:
        pid = worker_of(broker)
        for _ in range(4):
            assert worker_of(broker) == worker_of(broker, "well_async") == pid
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert set(pool.map(worker_of, [broker] * 4, ["well_async"] * 4)) == {pid}
        large = broker.call("well", bundle="neighbour", body=b"x" * MIB)
        assert len(large.request.raw_body) == MIB
        payload = {"message": {"Meta": {"path": str(tmp_path / "seen")}}, "handler_name": "on_event", "spec": {}}
        broker.send_event(Event(payload=json.dumps(payload)))
        assert (tmp_path / "seen").exists()
        assert broker.status()["restarts"] == 0


@pytest.mark.parametrize("code", [GEVENT, FREEZE], ids=["gevent", "freezegun"])
@pytest.mark.parametrize("moment", ["import", "hook"])
def test_a_library_that_patches_all_modules_stops_nobody(tmp_path: Path, code: str, moment: str) -> None:
    source = LIBRARY.replace("CODE", code) + ("apply()\n" if moment == "import" else "")
    files = {"a_library.py": source, "neighbour.py": NEIGHBOUR}
    with running_broker(tmp_path, "--threads", "2", "--timeout", "1000", files=files) as broker:
        pid = worker_of(broker)
        for hook in ("applies", "applies_async"):
            broker.call(hook, bundle="a_library")
            assert worker_of(broker) == worker_of(broker, "well_async") == pid
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert set(pool.map(worker_of, [broker] * 8, ["well_async", "well"] * 4)) == {pid}
        status = broker.status()
        assert status["restarts"] == 0
        assert [bundle["problems"] for bundle in status["bundles"]] == [[], []]
        assert broker.stop() == 0
    assert "2012-" not in broker_log(tmp_path)
    assert "Traceback" not in broker_log(tmp_path)


def broker_log(folder: Path) -> str:
    return (folder / "broker.log").read_text()


@pytest.mark.parametrize("thread", ["MainThread", "hooks-1", "control"])
def test_a_worker_without_one_of_its_threads_is_replaced(tmp_path: Path, thread: str) -> None:
    """Only the C API can raise there, when the thread runs next; in a hook it is that call's error."""
    files = {"loops.py": LOOPS, "neighbour.py": NEIGHBOUR}
    with running_broker(tmp_path, "--threads", "2", "--timeout", "1000", files=files) as broker:
        pid = worker_of(broker)

        def is_replaced() -> bool:
            with contextlib.suppress(GrpcCallError):
                broker.call("ends", bundle="loops", headers=[("Thread", thread)])
            if thread == "control":
                os.kill(broker.pid, signal.SIGUSR1)  # the broker tells its workers to open the log anew
            with contextlib.suppress(GrpcCallError), concurrent.futures.ThreadPoolExecutor(4) as pool:
                return pid not in pool.map(worker_of, [broker] * 4)
            return False

        wait_until(is_replaced, lambda: broker.log)
        assert "a loop of the worker itself has failed" in broker.log
        assert "exited with code 85" in broker.log


def test_a_worker_whose_event_loop_fails_is_replaced(tmp_path: Path) -> None:
    files = {"loops.py": LOOPS, "neighbour.py": NEIGHBOUR}
    with running_broker(tmp_path, "--timeout", "1000", files=files) as broker:
        pid = worker_of(broker)
        assert "exited with code 85" in error_of(broker, "ends_the_selector", "loops")
        assert worker_of(broker, "well_async") != pid


def test_no_memory_to_read_a_request_is_an_error(memory: RunningBroker) -> None:
    """The hook takes almost all memory; calls that need less than the rest still work."""
    pid = worker_of(memory)
    memory.call("keeps", bundle="memory")
    for _ in range(3):
        with pytest.raises(GrpcCallError, match="MemoryError: more than"):
            memory.call("changes", bundle="memory", body=b"x" * (7 * MIB))
        assert worker_of(memory) == worker_of(memory, "well_async") == pid
    memory.call("frees", bundle="memory")
    assert memory.call("changes", bundle="memory", body=b"x" * (7 * MIB)).request.raw_body[:1] == b"y"
    assert worker_of(memory) == pid


def test_a_worker_without_free_memory_fails_calls_at_once(memory: RunningBroker) -> None:
    """Whether the worker stays or is replaced, no call waits for its deadline."""
    with contextlib.suppress(GrpcCallError):
        memory.call("keeps_all", bundle="memory")
    for _ in range(5):
        for hook in ("well", "well_async"):
            with contextlib.suppress(GrpcCallError):
                memory.call(hook, bundle="neighbour")
    with contextlib.suppress(GrpcCallError):
        memory.call("frees", bundle="memory")
    wait_until(lambda: bool(worker_of(memory)), lambda: memory.log)


def test_async_hooks_need_no_descriptors(tmp_path: Path) -> None:
    """Not even the first one: nothing is opened for it."""
    source = """
import os
from tyk.decorators import Pre

opened = []

@Pre
def opens_all(request, session, spec):
    try:
        while True:
            opened.append(os.dup(0))
    except OSError:
        return request, session
"""
    files = {"opens.py": source, "neighbour.py": NEIGHBOUR}
    with running_broker(tmp_path, "--limit-files", "80", "--timeout", "1000", files=files) as broker:
        broker.call("opens_all", bundle="opens")
        pid = worker_of(broker)
        for _ in range(100):  # more than there are execution slots
            assert worker_of(broker, "well_async") == pid
