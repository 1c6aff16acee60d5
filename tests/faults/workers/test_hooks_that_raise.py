"""Whatever a hook raises, or does to its thread or event loop, affects one call: its worker keeps all its slots.

The deadline of all calls is later than the callers' timeouts.
"""

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import WELL
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.client.grpc import GrpcCallError

THREADS = 2
"""One of them is the worker's main thread."""
CALLS = 4
"""Of each kind: every thread gets some."""

SOURCE = (
    WELL
    + '''
import asyncio, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from tyk.decorators import Event, Pre

class Own(BaseException):
    pass

class Unprintable(BaseException):
    def __str__(self):
        raise KeyboardInterrupt

class Odd(type):
    @property
    def __name__(cls):
        raise SystemExit

class OddClass(BaseException, metaclass=Odd):
    pass

class Text(str):
    def __format__(self, spec):
        raise Own
    def __len__(self):
        raise Own

class OddText(BaseException):
    def __str__(self):
        return Text("odd")

class Unreadable(BaseException):
    @property
    def __class__(self):
        raise Own
    @property
    def __notes__(self):
        raise Own

class NoTraceback(BaseException):
    @property
    def __traceback__(self):
        raise Own

class NoAttributes(BaseException):
    def __getattribute__(self, name):
        raise KeyboardInterrupt

ERRORS = {
    "SystemExit": lambda: SystemExit(7),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "MemoryError": MemoryError,
    "Own": Own,
    "Unprintable": Unprintable,
    "OddClass": OddClass,
    "OddText": OddText,
    "Unreadable": Unreadable,
    "NoTraceback": NoTraceback,
    "NoAttributes": NoAttributes,
    "surrogate": lambda: LookupError("user \\ud800"),
    "huge": lambda: Own("x" * 10_000_000),
    "ExceptionGroup": lambda: BaseExceptionGroup("several", [KeyboardInterrupt(), Own()]),
}

def fail(request):
    raise ERRORS[request.get_header("Error")]()

@Pre
def raises(request, session, spec):
    fail(request)

@Pre
async def raises_async(request, session, spec):
    await asyncio.sleep(0)
    fail(request)

@Pre(on_error="continue")
def raises_and_continues(request, session, spec):
    request.add_header("X-Half", "done")
    fail(request)

@Pre(on_error="continue")
async def raises_and_continues_async(request, session, spec):
    fail(request)

@Pre
def raises_in_a_thread(request, session, spec):
    with ThreadPoolExecutor() as pool:
        pool.submit(fail, request).result()

@Pre
async def raises_in_a_thread_async(request, session, spec):
    await asyncio.to_thread(fail, request)

@Pre
async def raises_in_a_task(request, session, spec):
    async def task():
        await asyncio.sleep(0)
        fail(request)
    await asyncio.create_task(task())

@Pre
async def waits_for_a_task_that_ended(request, session, spec):
    """Nobody looks at the task: what the hook waits for does not come."""
    async def task():
        await asyncio.sleep(0)
        sys.exit(5)
    request.task = asyncio.create_task(task())
    await asyncio.Event().wait()

@Pre
async def waits_for_a_callback_that_ended(request, session, spec):
    asyncio.get_running_loop().call_soon(sys.exit, 5)
    await asyncio.Event().wait()

@Pre
def waits_in_a_loop_of_its_own(request, session, spec):
    async def run():
        asyncio.get_running_loop().call_soon(sys.exit, 5)
        await asyncio.Event().wait()
    asyncio.run(run())

@Pre
async def cancels_itself(request, session, spec):
    asyncio.current_task().cancel()
    await asyncio.Event().wait()

@Pre
async def cancels_itself_and_returns(request, session, spec):
    asyncio.current_task().cancel()
    return request, session

@Pre(on_error="continue")
async def cancels_itself_and_continues(request, session, spec):
    asyncio.current_task().cancel()
    await asyncio.Event().wait()

@Pre
async def is_cancelled_by_its_task(request, session, spec):
    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
    await asyncio.Event().wait()

@Pre
async def stops_the_loop(request, session, spec):
    asyncio.get_running_loop().stop()
    await asyncio.Event().wait()

@Pre
async def closes_the_loop(request, session, spec):
    asyncio.get_running_loop().close()
    await asyncio.Event().wait()

@Pre
async def ends_the_executor(request, session, spec):
    await asyncio.get_running_loop().shutdown_default_executor()

@Pre
async def cancels_every_task(request, session, spec):
    for task in asyncio.all_tasks():
        task.cancel()
    return request, session

@Pre
async def waits_for_the_gate(request, session, spec):
    open(request.get_header("Entered"), "a").close()
    while not os.path.exists(request.get_header("Gate")):
        await asyncio.sleep(0.002)
    return request, session

class RaisesWhenItGoes:
    def __del__(self):
        raise KeyboardInterrupt

@Pre
def leaves_garbage(request, session, spec):
    RaisesWhenItGoes()
    lives = RaisesWhenItGoes()
    lives.cycle = lives
    return request, session

class RaisesWhenLookedAt:
    def __len__(self):
        raise KeyboardInterrupt
    __iter__ = __getitem__ = __eq__ = __bool__ = __len__

@Pre
def returns_what_raises(request, session, spec):
    return RaisesWhenLookedAt()

@Pre
def returns_what_raises_within(request, session, spec):
    return RaisesWhenLookedAt(), RaisesWhenLookedAt()

@Event
def on_event(event, spec):
    raise KeyboardInterrupt

@Event
async def on_event_async(event, spec):
    raise Own
'''
)

CHAIN = """
from tyk.decorators import Pre

@Pre(on_error="continue")
async def first(request, session, spec):
    import asyncio
    asyncio.current_task().cancel()
    return request, session

@Pre
async def second(request, session, spec):
    import asyncio
    await asyncio.sleep(0)
    request.add_header("X-Second", "ran")
    return request, session

@Pre
def third(request, session, spec):
    if request.get_header("Error"):
        raise GeneratorExit
    return request, session
"""

ERRORS = {
    "SystemExit": "called sys.exit(7)",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "GeneratorExit": "GeneratorExit",
    "CancelledError": "CancelledError",
    "StopIteration": "StopIteration",
    "StopAsyncIteration": "StopAsyncIteration",
    "MemoryError": "MemoryError",
    "Own": "Own",
    "Unprintable": "Unprintable: <its __str__ raised KeyboardInterrupt>",
    "OddClass": "OddClass",
    "OddText": "OddText: odd",
    "Unreadable": "Unreadable",
    "NoTraceback": "NoTraceback",
    "NoAttributes": "NoAttributes",
    "surrogate": "LookupError: user \\ud800",
    "huge": "Own: xxxx",
    "ExceptionGroup": "BaseExceptionGroup: several",
}

ELSEWHERE = ("raises_async", "raises_in_a_thread", "raises_in_a_thread_async", "raises_in_a_task")
"""Hooks in which Python or asyncio makes another error of StopIteration and StopAsyncIteration."""
CASES = [("raises", error) for error in ERRORS] + [
    (hook, error) for hook in ELSEWHERE for error in ERRORS if not error.startswith("Stop")
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One worker for all tests here: it must survive each of them."""
    files = {"hooks.py": SOURCE, "chain.py": CHAIN}
    flags = ("--threads", str(THREADS), "--timeout", "1000")
    with running_broker(tmp_path_factory.mktemp("raising"), *flags, files=files) as running:
        yield running


@pytest.fixture(autouse=True)
def all_slots_survive(broker: RunningBroker) -> Iterator[None]:
    """Check that the same worker answers afterwards, and has no calls in flight."""
    before = worker_of(broker)
    yield
    with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
        for hook in ("well", "well_async"):
            assert set(pool.map(worker_of, [broker] * CALLS, [hook] * CALLS)) == {before}
    status = broker.status()
    assert status["restarts"] == 0
    assert [worker["in_flight"] for worker in status["workers"]] == [0]


def worker_of(broker: RunningBroker, hook: str = "well") -> str:
    return broker.call(hook, bundle="hooks").request.set_headers["X-Worker"]


def fails(broker: RunningBroker, hook: str, error: str = "", bundle: str = "hooks") -> list[str]:
    """Make several calls; return their errors."""
    said = []
    for _ in range(CALLS):
        with pytest.raises(GrpcCallError) as caught:
            broker.call(hook, bundle=bundle, headers=[("Error", error)])
        said.append(f"{caught.value.code.name}: {caught.value.message}")
    return said


@pytest.mark.parametrize(("hook", "error"), CASES)
def test_any_exception_is_the_error_of_its_call(broker: RunningBroker, hook: str, error: str) -> None:
    for said in fails(broker, hook, error):
        assert said.startswith(f"INTERNAL: hook {hook} of bundle hooks.py failed: {ERRORS[error]}")
        assert len(said) < 5000


@pytest.mark.parametrize("hook", ["raises_and_continues", "raises_and_continues_async"])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "CancelledError", "Own", "surrogate"])
def test_any_exception_may_be_passed_over(broker: RunningBroker, hook: str, error: str) -> None:
    for _ in range(CALLS):
        assert not broker.call(hook, bundle="hooks", headers=[("Error", error)]).request.set_headers


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        ("waits_for_a_task_that_ended", "called sys.exit(5)"),
        ("waits_for_a_callback_that_ended", "called sys.exit(5)"),
        ("waits_in_a_loop_of_its_own", "called sys.exit(5)"),
        ("cancels_itself", "CancelledError"),
        ("cancels_itself_and_returns", "CancelledError"),
        ("is_cancelled_by_its_task", "CancelledError"),
        ("stops_the_loop", "RuntimeError: this event loop serves all async hooks"),
        ("closes_the_loop", "RuntimeError: this event loop serves all async hooks"),
        ("ends_the_executor", "RuntimeError: this event loop serves all async hooks"),
        ("returns_what_raises", "KeyboardInterrupt"),
    ],
)
def test_a_hook_that_ends_its_loop_or_task_fails_at_once(broker: RunningBroker, hook: str, error: str) -> None:
    for said in fails(broker, hook):
        assert said.startswith(f"INTERNAL: hook {hook} of bundle hooks.py failed: {error}")


def test_a_hook_that_cancels_itself_may_be_passed_over(broker: RunningBroker) -> None:
    for _ in range(CALLS):
        assert not broker.call("cancels_itself_and_continues", bundle="hooks").request.set_headers


@pytest.mark.parametrize("how", ["sys.exit", "cancel"])
def test_other_calls_on_the_loop_go_on(broker: RunningBroker, tmp_path: Path, how: str) -> None:
    """A task that ends the loop, or a hook that cancels all tasks, affects one call, not those that wait meanwhile."""
    headers = [("Entered", str(tmp_path / "entered")), ("Gate", str(tmp_path / "gate"))]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(broker.call, "waits_for_the_gate", bundle="hooks", headers=headers)
        wait_until((tmp_path / "entered").exists, lambda: broker.log)
        if how == "cancel":
            broker.call("cancels_every_task", bundle="hooks")
        else:
            fails(broker, "waits_for_a_task_that_ended")
        (tmp_path / "gate").touch()
        waiting.result()


@pytest.mark.parametrize("hook", ["leaves_garbage", "returns_what_raises_within"])
def test_uncatchable_errors_cost_nothing(broker: RunningBroker, hook: str) -> None:
    for _ in range(CALLS):
        broker.call(hook, bundle="hooks")


@pytest.mark.parametrize("handler", ["on_event", "on_event_async"])
def test_any_exception_is_the_error_of_its_event(broker: RunningBroker, handler: str) -> None:
    for _ in range(CALLS):
        with pytest.raises(GrpcCallError, match=f"hook {handler} of bundle hooks.py failed"):
            broker.send_event(Event(payload=json.dumps({"message": {}, "handler_name": handler, "spec": {}})))


def test_an_event_of_an_unprintable_name_is_an_error(broker: RunningBroker) -> None:
    """JSON may hold half of a surrogate pair, which UTF-8 cannot."""
    for _ in range(CALLS):
        with pytest.raises(GrpcCallError, match="ud800"):
            broker.send_event(Event(payload=json.dumps({"message": {}, "handler_name": "\ud800", "spec": {}})))


def test_a_chain_goes_on_after_a_hook_that_cancelled_itself(broker: RunningBroker) -> None:
    answer = broker.call("*", bundle="chain")
    assert answer.request.set_headers == {"X-Second": "ran"}


def test_any_exception_ends_a_chain(broker: RunningBroker) -> None:
    for said in fails(broker, "*", "GeneratorExit", bundle="chain"):
        assert said.startswith("INTERNAL: hook third of bundle chain.py failed: GeneratorExit")
