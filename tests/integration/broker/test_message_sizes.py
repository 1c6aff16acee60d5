"""Messages up to the limit pass and larger ones are refused with a reason: both ways, on both front ends."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.broker import PATIENCE, RunningBroker, wait_until
from tests.support.peers.attacker import Attacker
from tests.support.peers.front_ends import FRONT_ENDS, CallError, Client, FrontEnd, both_listeners
from tests.support.peers.http2_peer import data, message
from tests.support.readme import blocks
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.config import BrokerConfig
from tykpy.broker.refused_sizes import BESIDES_BODIES, GATEWAY_DEFAULT
from tykpy.commands.objects import CallDescription, build_event, build_object
from tykpy.ipc.frame import Status

MIB = 1024 * 1024
LIMIT = 2 * MIB + BESIDES_BODIES
"""Message limit for bodies of 1 MiB, in bytes."""
ALLOWED = f"and may have {LIMIT} (--max-body 1MiB: text bodies are sent twice)"
TEXT = b"x"
BINARY = b"\xff"
"""Not UTF-8: the gateway sends such a body once, and text twice."""
LONG = 120.0
"""Timeout for a message of 100 MiB on a busy machine, in seconds."""
DISPATCH = "/coprocess.Dispatcher/Dispatch"
HOOKS = """
from tyk.decorators import Post, Response

def new_body(request):
    return b"y" * int(request.get_header("Size") or 0)

@Post
def keep(request, session, spec):
    return request, session

@Post
def grow(request, session, spec):
    request.object.raw_body = new_body(request)
    return request, session

@Post
async def grow_later(request, session, spec):
    request.object.raw_body = new_body(request)
    return request, session

@Response
def respond(request, response, session, metadata, spec):
    response.raw_body = new_body(request) or response.raw_body
    return response
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    one = both_listeners(RunningBroker(tmp_path_factory.mktemp("sizes"), "--max-body", str(MIB)))
    one.add_file("hooks.py", HOOKS)
    with one:
        yield one
        one.check_accounts()


@pytest.fixture(params=sorted(FRONT_ENDS))
def front(request: pytest.FixtureRequest, broker: RunningBroker) -> FrontEnd:
    return FRONT_ENDS[request.param](broker)


@pytest.fixture
def client(front: FrontEnd) -> Iterator[Client]:
    with front.connect() as opened:
        yield opened


def an_object(hook: str, hook_type: str = "Post", size: int = 0, **description: Any) -> Object:
    headers = [("Size", str(size))] if size else []
    return build_object(CallDescription(hook, hook_type=hook_type, bundle="hooks", headers=headers, **description))


@contextmanager
def counted(broker: RunningBroker, requests: int = 0, answers: int = 0) -> Iterator[None]:
    """Check that the block adds this many refused requests and answers to the counters."""
    before = broker.status()["too_large"]
    yield
    after = broker.status()["too_large"]
    assert (after["requests"] - before["requests"], after["answers"] - before["answers"]) == (requests, answers)


def refusal(call: Callable[[], object], code: str) -> str:
    """Make a call that is refused with `code`; return the error's message."""
    with pytest.raises(CallError) as caught:
        call()
    assert caught.value.code == code
    return caught.value.message


@pytest.mark.parametrize(("body", "size"), [(TEXT, MIB), (BINARY, MIB), (BINARY, LIMIT - 4096)])
def test_bodies_of_the_limit_pass_both_ways(broker: RunningBroker, client: Client, body: bytes, size: int) -> None:
    """A binary body is sent once, so it may be more than twice as large as text."""
    with counted(broker):
        assert client.dispatch(an_object("keep", body=body * size)).request.raw_body == body * size
        answer = client.dispatch(an_object("respond", "Response", response_body=body * size))
        assert answer.response.raw_body == body * size


@pytest.mark.parametrize("hook_type", ["Post", "Response"])
def test_a_request_above_the_limit_is_refused_with_its_hook(
    broker: RunningBroker, front: FrontEnd, hook_type: str
) -> None:
    body = TEXT * (LIMIT // 2)
    if hook_type == "Post":
        hook, too_large = "keep", an_object("keep", body=body)
    else:
        hook, too_large = "respond", an_object("respond", "Response", response_body=body)
    with counted(broker, requests=2):
        for _ in range(2):
            with front.connect() as client:
                said = refusal(lambda: client.dispatch(too_large), front.code_of(Status.TOO_LARGE))
                assert re.fullmatch(rf"hook {hook}: the request has (more than )?\d+ bytes, {re.escape(ALLOWED)}", said)
    assert broker.log.count(f"hook {hook}: the request has") == 1


@pytest.mark.parametrize(("hook", "hook_type"), [("grow", "Post"), ("grow_later", "Post"), ("respond", "Response")])
def test_an_answer_that_a_hook_makes_too_large_is_refused(
    broker: RunningBroker, front: FrontEnd, client: Client, hook: str, hook_type: str
) -> None:
    """The connection stays usable after the refusal."""
    with counted(broker, answers=1):
        too_large = an_object(hook, hook_type, size=LIMIT + 1)
        said = refusal(lambda: client.dispatch(too_large), front.code_of(Status.TOO_LARGE))
        assert re.fullmatch(rf"hook {hook}: the answer has \d+ bytes, {re.escape(ALLOWED)}", said)
        fits = client.dispatch(an_object(hook, hook_type, size=LIMIT - 4096))
        assert len(fits.response.raw_body or fits.request.raw_body) == LIMIT - 4096
    assert broker.log.count(f"hook {hook}: the answer has") == 1


def test_an_event_above_the_limit_is_refused(broker: RunningBroker, front: FrontEnd, client: Client) -> None:
    event = build_event("nobody", {"Message": "x" * LIMIT}, {})
    with counted(broker, requests=1):
        said = refusal(lambda: client.dispatch_event(event), front.code_of(Status.TOO_LARGE))
    assert said.startswith("an event: the request has")
    assert broker.log.count("an event: the request has") == 1


def test_a_message_above_the_limit_is_refused_before_it_has_come(broker: RunningBroker) -> None:
    """The announced length decides, however the frames are cut, and no byte of the message is kept."""
    encoded = message(an_object("slow", body=TEXT * LIMIT).SerializeToString())
    peer = Attacker(str(broker.socket))
    with counted(broker, requests=1):
        peer.send(peer.headers(1), *(data(1, encoded[at : at + 1], 0) for at in range(1100)))
        broker.wait_for_log("hook slow: the request has")
        wait_until(lambda: broker.status()["arriving"]["bytes"] == 0, lambda: str(broker.status()))
    peer.close()


@pytest.mark.parametrize("body", [TEXT * LIMIT, bytes(range(256)) * (LIMIT // 64)])
def test_compressed_messages_have_the_limit_when_decompressed(broker: RunningBroker, body: bytes) -> None:
    with grpc.insecure_channel(f"unix://{broker.socket}") as channel, counted(broker, requests=1):
        call = channel.unary_unary(DISPATCH)
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED") as caught:
            call(an_object("zipped", body=body).SerializeToString(), PATIENCE, compression=grpc.Compression.Gzip)
        assert caught.value.details().startswith("hook zipped: the request has")
        assert caught.value.details().endswith(ALLOWED)


def test_an_answer_that_the_gateway_refuses_is_logged(broker: RunningBroker) -> None:
    """A gateway without `grpc_recv_max_size` drops the answer, and logs nothing for response hooks."""
    size = GATEWAY_DEFAULT + 1
    before = broker.status()["too_large"]["abandoned"]
    with grpc.insecure_channel(f"unix://{broker.socket}") as channel:
        with pytest.raises(grpc.RpcError, match="larger than max"):
            channel.unary_unary(DISPATCH)(an_object("grow", size=size).SerializeToString(), PATIENCE)
        wait_until(lambda: broker.status()["too_large"]["abandoned"] == before + 1, lambda: str(broker.status()))
    assert re.search(r"hook grow: the gateway did not take an answer of \d+ bytes", broker.log)
    broker.check_accounts()


def test_the_default_limit_is_that_of_the_documented_gateway() -> None:
    (conf,) = [block for block in blocks("json") if "grpc_recv_max_size" in block]
    limits = re.findall(r'"grpc_(?:recv|send)_max_size": (\d+)', conf)
    assert limits == [str(BrokerConfig().message_limit)] * 2


def test_bodies_of_the_default_limit_pass_both_ways(tmp_path: Path) -> None:
    largest, unlimited = BrokerConfig().max_body, [("grpc.max_receive_message_length", -1)]
    broker = RunningBroker(tmp_path, "--timeout", str(LONG))
    broker.add_file("hooks.py", HOOKS)
    with broker, grpc.insecure_channel(f"unix://{broker.socket}", options=unlimited) as channel:
        call = channel.unary_unary(DISPATCH)
        encoded = an_object("keep", body=TEXT * largest).SerializeToString()
        assert len(encoded) > 2 * largest
        assert len(call(encoded, LONG)) > 2 * largest
        broker.check_accounts()
