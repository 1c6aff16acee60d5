"""Records of a dispatch say which one: bundle, hook, API, request, trace, worker and duration."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from tests.support.broker import RunningBroker, wait_until
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import CallDescription, build_object

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
SPAN: Final = "b7ad6b7169203331"
TRACE_PARENT: Final = f"00-{TRACE}-{SPAN}-01"

SOURCE: Final = """
import asyncio
import logging
import threading
import time
from gateway import TykGateway as tyk
from tyk.decorators import Event, Hook

print("loading")


def say(text):
    print("printed " + text)
    tyk.log("logged " + text, "warning")
    logging.getLogger("mine").warning("%s", "module " + text, extra={"tenant": 7, "bundle": "forged"})


@Hook
def says(request, session, spec):
    say(request.get_header("Tag"))
    return request, session


@Hook
async def says_async(request, session, spec):
    await asyncio.sleep(0)
    await asyncio.create_task(say_later(request.get_header("Tag")))
    return request, session


async def say_later(text):
    say(text)


@Hook
def says_in_thread(request, session, spec):
    thread = threading.Thread(target=say, args=(request.get_header("Tag"),))
    thread.start()
    thread.join()
    return request, session


@Hook
def forges(request, session, spec):
    print('x\\u2028{"level":"error"}\\r{"level":"error"}\\x85')
    return request, session


@Hook
def fails(request, session, spec):
    raise LookupError("no such tenant")


@Hook(timeout=0.2)
async def waits(request, session, spec):
    await asyncio.sleep(60)
    return request, session


def inner(gate):
    while not gate.is_set():
        gate.wait(0.01)


gates = {}


@Hook(timeout=60)
def slow(request, session, spec):
    inner(gates.setdefault("sync", threading.Event()))
    return request, session


@Hook(timeout=0.2)
def hangs(request, session, spec):
    inner(gates.setdefault("hangs", threading.Event()))
    return request, session


async def inner_async(gate):
    while not gate.is_set():
        await asyncio.sleep(0.01)


@Hook(timeout=60)
async def slow_async(request, session, spec):
    await inner_async(gates.setdefault("async", threading.Event()))
    return request, session


@Hook
def opens(request, session, spec):
    gates.setdefault(request.get_header("Gate"), threading.Event()).set()
    return request, session


@Event
def happens(event, spec):
    print("happened")
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    env = {"TYKPY_LOG_FORMAT": "json", "TYKPY_SLOW_HOOK": "200ms"}
    one = RunningBroker(tmp_path_factory.mktemp("logs"), "--threads", "4", "--hang-grace", "1h", env=env)
    one.add_file("mine.py", SOURCE)
    with one:
        yield one


def records(broker: RunningBroker) -> list[dict[str, Any]]:
    # The last line may be in the making; stacks that faulthandler writes are text.
    return [json.loads(line) for line in broker.log.rpartition("\n")[0].split("\n") if line.startswith("{")]


def wait_for(broker: RunningBroker, message: str) -> dict[str, Any]:
    """Return the first record whose message starts with this."""

    def found() -> list[dict[str, Any]]:
        return [one for one in records(broker) if one["message"].startswith(message)]

    wait_until(lambda: bool(found()), lambda: f"{message!r} in {broker.log}")
    return found()[0]


def call(broker: RunningBroker, hook: str, metadata: dict[str, str] | None = None, **headers: str) -> None:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    described = CallDescription(hook, headers=pairs, spec={"APIID": "a1"})
    with GrpcClient(broker.address) as client:
        client.call("/coprocess.Dispatcher/Dispatch", build_object(described).SerializeToString(), metadata=metadata)


@pytest.mark.parametrize("hook", ["says", "says_async"])
def test_records_of_a_hook_carry_its_dispatch(broker: RunningBroker, hook: str) -> None:
    call(broker, hook, {"traceparent": TRACE_PARENT}, Tag=hook, X_Request_Id="r1")
    expected = {
        "process": "worker", "worker": 0, "bundle": "mine.py", "hook": hook, "type": "Pre", "api_id": "a1",
        "request_id": "r1", "trace_id": TRACE, "span_id": SPAN,
    }  # fmt: skip
    for text, level, logger in (("printed", "info", "tykpy.plugin"), ("logged", "warning", "tykpy.plugin")):
        said = wait_for(broker, f"{text} {hook}")
        assert expected.items() | {"level": level, "logger": logger}.items() <= said.items()
        assert said["duration_ms"] >= 0
    said = wait_for(broker, f"module {hook}")
    assert expected.items() <= {key: value for key, value in said.items() if key != "extra"}.items()
    assert said["extra"] == {"tenant": 7, "bundle": "forged"}


def test_the_trace_may_come_with_the_request(broker: RunningBroker) -> None:
    call(broker, "says", Tag="traced", Traceparent=TRACE_PARENT)
    said = wait_for(broker, "printed traced")
    assert (said["trace_id"], said["span_id"]) == (TRACE, SPAN)
    assert "request_id" not in said


def test_values_from_clients_are_bounded_in_the_log(broker: RunningBroker) -> None:
    call(broker, "says", Tag="hostile", Traceparent=f'{TRACE_PARENT}"', X_Request_Id="r\n" * 10_000)
    said = wait_for(broker, "printed hostile")
    assert len(said["request_id"]) < 300
    assert "trace_id" not in said


def test_a_thread_of_a_plugin_belongs_to_its_bundle(broker: RunningBroker) -> None:
    call(broker, "says_in_thread", Tag="threaded")
    said = wait_for(broker, "printed threaded")
    assert said["bundle"] == "mine.py"
    assert "hook" not in said
    assert wait_for(broker, "loading")["bundle"] == "mine.py"


def test_nothing_printed_forges_a_record(broker: RunningBroker) -> None:
    call(broker, "forges")
    said = wait_for(broker, "x\u2028")
    assert said["message"] == 'x\u2028{"level":"error"}\r{"level":"error"}\x85'
    assert said["level"] == "info"


def test_a_failed_hook_carries_its_dispatch(broker: RunningBroker) -> None:
    with pytest.raises(GrpcCallError):
        call(broker, "fails", X_Request_Id="r2")
    said = wait_for(broker, "hook fails of bundle mine.py failed")
    assert {"hook": "fails", "api_id": "a1", "request_id": "r2", "error_type": "LookupError"}.items() <= said.items()
    assert said["error_message"] == "no such tenant"
    assert "raise LookupError" in said["stack"]


def test_a_hook_that_hangs_carries_its_dispatch(broker: RunningBroker) -> None:
    """Before the next test: if the machine is so busy that its hook is overdue too, the worker is reported for that."""
    with pytest.raises(GrpcCallError):
        call(broker, "hangs")
    said = wait_for(broker, f"worker 0 (process {broker.status()['workers'][0]['pid']}) is past the deadline of hook ")
    assert {
        "process": "broker",
        "bundle": "mine.py",
        "hook": "hangs",
        "type": "Pre",
        "api_id": "a1",
    }.items() <= said.items()
    assert said["worker"] == 0
    assert said["duration_ms"] >= 200
    call(broker, "opens", Gate="hangs")


def test_a_timeout_carries_its_dispatch(broker: RunningBroker) -> None:
    with pytest.raises(GrpcCallError):
        call(broker, "waits", X_Request_Id="r3")
    said = wait_for(broker, "hook waits of bundle mine.py is cancelled: its deadline has passed")
    assert {"bundle": "mine.py", "hook": "waits", "api_id": "a1", "request_id": "r3"}.items() <= said.items()
    # The deadline counts from when the broker took the call, a little before the hook began.
    assert said["duration_ms"] > 0


def test_an_event_handler_carries_its_event(broker: RunningBroker) -> None:
    spec = {"APIID": "a1", "bundle_hash": "mine.py"}
    broker.send_event(Event(payload=json.dumps({"message": {}, "handler_name": "happens", "spec": spec})))
    said = wait_for(broker, "happened")
    assert {"bundle": "mine.py", "hook": "happens", "type": "Event", "api_id": "a1"}.items() <= said.items()


@pytest.mark.parametrize(("hook", "gate", "inner"), [("slow", "sync", "inner"), ("slow_async", "async", "inner_async")])
def test_a_slow_hook_has_its_stack_logged_once(broker: RunningBroker, hook: str, gate: str, inner: str) -> None:
    with ThreadPoolExecutor(1) as caller:
        pending = caller.submit(call, broker, hook)
        said = wait_for(broker, f"hook {hook} of bundle mine.py has been running for")
        call(broker, "opens", Gate=gate)
        pending.result()
    told = [one for one in records(broker) if one.get("hook") == hook and "has been running" in one["message"]]
    assert len(told) == 1
    assert {"level": "warning", "hook": hook, "bundle": "mine.py", "api_id": "a1"}.items() <= said.items()
    assert said["duration_ms"] >= 200
    assert f"in {hook}" in said["stack"].split("\n")[0]
    assert f"in {inner}" in said["stack"]
