"""Hooks see their call's metadata (`tyk.current()`), over both front ends."""

import base64
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker
from tests.support.peers.front_ends import FRONT_ENDS, CallError, Client, Metadata, both_listeners
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.commands.objects import CallDescription, build_event, build_object
from tykpy.ipc.frame import MAX_METADATA

SOURCE = """
import asyncio, base64, json, threading
from pathlib import Path
from tyk import current
from tyk.decorators import Event, Post, Pre, PostKeyAuth
from tyk.errors import NoCallError

def told():
    values = current().metadata.items()
    return json.dumps({name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
                       for name, value in values})

@Pre
def plain(request, session, spec):
    request.add_header("Told", told())
    return request, session

@Pre
def does_not_ask(request, session, spec):
    return request, session

@Post
async def waits(request, session, spec):
    async def task():
        await asyncio.sleep(0)
        return told()
    await asyncio.sleep(0)
    request.add_header("Told", await asyncio.create_task(task()))
    return request, session

@PostKeyAuth
def first(request, session, spec):
    request.add_header("First", told())
    return request, session

@PostKeyAuth
async def second(request, session, spec):
    request.add_header("Second", told())
    return request, session

@Pre
def in_a_thread(request, session, spec):
    found = []
    def look():
        try:
            found.append(told())
        except NoCallError as error:
            found.append(str(error))
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    request.add_header("Told", found[0])
    return request, session

@Event
def handler(event, spec):
    Path(event.message.Meta.File).write_text(told())
"""
TRACE: Metadata = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
MIXED: Metadata = {**TRACE, "grpc-trace-bin": b"\0\1\xff", "tracestate": "a=1,b=2", "empty": ""}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    broker = both_listeners(RunningBroker(tmp_path_factory.mktemp("metadata")))
    broker.add_file("hooks.py", SOURCE)
    with broker:
        yield broker


@pytest.fixture(params=FRONT_ENDS)
def client(broker: RunningBroker, request: pytest.FixtureRequest) -> Iterator[Client]:
    with contextlib.closing(FRONT_ENDS[request.param](broker).connect()) as client:
        yield client


def call(client: Client, hook: str, hook_type: str, metadata: Metadata | None, body: bytes = b"") -> dict[str, str]:
    answer = client.dispatch(
        build_object(CallDescription(hook, hook_type=hook_type, bundle="hooks", body=body)), metadata=metadata
    )
    return dict(answer.request.set_headers)


def expected(metadata: Metadata) -> dict[str, str]:
    """Parse what the hooks above return."""
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in metadata.items()
    }


@pytest.mark.parametrize(("hook", "hook_type"), [("plain", "Pre"), ("waits", "Post")])
def test_each_hook_gets_the_metadata_of_its_own_call(client: Client, hook: str, hook_type: str) -> None:
    """Repeat calls, since the first ones of a connection are decoded in another way."""
    for number in range(5):
        given = {**MIXED, "number": str(number)}
        assert json.loads(call(client, hook, hook_type, given)["Told"]) == expected(given)
        assert json.loads(call(client, hook, hook_type, None)["Told"]) == {}


def test_a_call_that_does_not_ask_leaves_nothing_behind(client: Client) -> None:
    call(client, "does_not_ask", "Pre", MIXED)
    assert json.loads(call(client, "plain", "Pre", None)["Told"]) == {}


def test_every_hook_of_a_chain_gets_the_metadata(client: Client) -> None:
    told = call(client, "*", "PostKeyAuth", MIXED)
    assert json.loads(told["First"]) == json.loads(told["Second"]) == expected(MIXED)


@pytest.mark.parametrize("size", [20_000, 300_000], ids=["copied", "borrowed"])
def test_calls_with_big_bodies_have_metadata(client: Client, size: int) -> None:
    assert json.loads(call(client, "plain", "Pre", MIXED, b"\xff" * size)["Told"]) == expected(MIXED)


def test_tykpy_call_sends_metadata(broker: RunningBroker) -> None:
    said = ["call", "plain", "--bundle", "hooks", "--connect", broker.address, "--grpc-metadata", "Trace=1=2"]
    shown = subprocess.run([TYKPY, *said], capture_output=True, text=True, check=True, timeout=60)
    assert '{"trace": "1=2"}' in shown.stdout


def test_a_plugin_s_own_thread_has_none(client: Client) -> None:
    assert "no hook runs here" in call(client, "in_a_thread", "Pre", MIXED)["Told"]


def test_event_handlers_get_the_metadata(client: Client, tmp_path: Path) -> None:
    event = build_event("handler", {"Meta": {"File": str(tmp_path / "told")}}, {"APIID": "a"})
    assert client.dispatch_event(event, metadata=TRACE)
    assert json.loads((tmp_path / "told").read_text()) == TRACE


def test_many_calls_at_once_do_not_mix(broker: RunningBroker) -> None:
    hook = build_object(CallDescription("waits", hook_type="Post", bundle="hooks"))
    with grpc.insecure_channel(broker.address) as channel:
        dispatch = channel.unary_unary("/coprocess.Dispatcher/Dispatch", Object.SerializeToString, Object.FromString)
        calls = [dispatch.future(hook, metadata=(("number", str(number)),), timeout=PATIENCE) for number in range(50)]
        told = [json.loads(one.result().request.set_headers["Told"]) for one in calls]
    assert told == [{"number": str(number)} for number in range(50)]


def test_its_size_is_bounded(broker: RunningBroker) -> None:
    with contextlib.closing(FRONT_ENDS["grpc"](broker).connect()) as client:
        for _ in range(5):
            told = json.loads(call(client, "plain", "Pre", {"big": "v" * (MAX_METADATA - 2_000), **MIXED})["Told"])
            assert len(told["big"]) == MAX_METADATA - 2_000
            assert told["traceparent"] == TRACE["traceparent"]
            told = json.loads(call(client, "plain", "Pre", {"big": "v" * (MAX_METADATA + 1), **MIXED})["Told"])
            assert "big" not in told
            assert told["traceparent"] == TRACE["traceparent"]
    with contextlib.closing(FRONT_ENDS["msgpack"](broker).connect()) as client:
        with pytest.raises(CallError, match=r"TOO_LARGE: metadata of .* is larger than the limit of 16384 bytes"):
            call(client, "plain", "Pre", {"big": "v" * (MAX_METADATA + 1)})
