"""A Go program with stock libraries (net/rpc, ugorji/go) calls hooks over MessagePack-RPC."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.broker import RunningBroker
from tests.support.hooks import SOURCE
from tests.support.peers.msgpack_client import Outcome, pipelined

PRE, POST, AUTH = 1, 2, 4
TYPES = """
from tyk.decorators import *

@Post
def keep(request, session, metadata, spec):
    return request, session, metadata

@Post
def keep_without_session(request, session, spec):
    return request, session
"""


class Listening:
    """A broker that listens for both protocols, with methods to call it."""

    def __init__(self, broker: RunningBroker, path: Path) -> None:
        self.broker = broker
        self.path = path

    def call(self, method: str, *params: Any) -> Outcome:
        """Make one call."""
        return pipelined(self.path, [(method, list(params))])[0]

    def dispatch(self, hook: str, **fields: Any) -> Any:
        """Dispatch an object and return the answer's."""
        result, error = self.call("dispatch", {"hook_name": hook, "hook_type": PRE, **fields})
        assert error == ""
        return result


@contextlib.contextmanager
def listening(folder: Path, *flags: str) -> Iterator[Listening]:
    """Run a broker that listens for both protocols."""
    broker = RunningBroker(folder, "--threads", "2", *flags)
    path = broker.runtime / "msgpack.sock"
    broker.add_flags("--listen", broker.address, "--listen", f"msgpack+unix://{path}")
    broker.add_file("hooks.py", SOURCE)
    broker.add_file("types.py", TYPES)
    with broker:
        yield Listening(broker, path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(tmp_path_factory.mktemp("msgpack")) as running:
        yield running


def test_a_hook_changes_a_request(server: Listening) -> None:
    request = server.dispatch("add_header", request={"url": "/", "method": "GET"})["request"]
    assert int(request["set_headers"]["X-Worker"]) > 0
    assert (request["url"], request["method"]) == ("/", "GET")


def test_msgpack_gives_what_grpc_gives(server: Listening) -> None:
    own = server.dispatch("check_key", hook_type=AUTH, request={"url": "/", "headers": {"Authorization": "secret"}})
    grpc = server.broker.call("check_key", hook_type="CustomKeyCheck", headers=[("Authorization", "secret")])
    assert own["session"]["metadata"] == dict(grpc.session.metadata) == {"token": "secret"}
    assert own["session"]["rate"] == grpc.session.rate == 1000.0


def test_types_survive_the_trip(server: Listening) -> None:
    session = {"expires": 2**62, "last_check": -(2**62), "rate": 3.0, "per": 0.1, "alias": "grüße", "tags": ["a", ""]}
    request = {"raw_body": bytes(range(256)), "body": "text", "url": "/", "headers": {"A": "1"}}
    back = server.dispatch("keep", hook_type=POST, session=session, request=request)
    assert {name: back["session"][name] for name in session} == session
    assert {name: back["request"][name] for name in request} == request
    for name, value in session.items():
        assert type(back["session"][name]) is type(value), name
    assert (type(back["request"]["raw_body"]), type(back["request"]["body"])) == (bytes, str)


def test_absent_messages_stay_absent(server: Listening) -> None:
    back = server.dispatch("keep_without_session", hook_type=POST, request={"url": "/"})
    assert "session" not in back or back["session"] is None
    assert "response" not in back or back["response"] is None


def test_calls_are_pipelined_on_one_connection(server: Listening) -> None:
    calls: list[tuple[str, list[Any]]] = [
        ("dispatch", [{"hook_name": "echo", "hook_type": PRE, "request": {"url": "/", "headers": {"Nonce": str(n)}}}])
        for n in range(500)
    ]
    outcomes = pipelined(server.path, calls)
    assert [outcome.error for outcome in outcomes] == [""] * 500
    assert [int(outcome.result["request"]["set_headers"]["Nonce"]) for outcome in outcomes] == [*range(500)]


def test_errors_say_what_is_wrong_and_come_among_answers(server: Listening) -> None:
    good: tuple[str, list[Any]] = ("dispatch", [{"hook_name": "add_header", "hook_type": PRE, "request": {"url": "/"}}])
    bad: list[tuple[str, list[Any]]] = [
        ("dispatch", [{"hook_name": "raises"}]),
        ("dispatch", [{"hook_name": "nobody"}]),
        ("dispatch", [{"hook_nam": "add_header"}]),
        ("dispatch", ["add_header"]),
        ("no_such_method", []),
    ]
    outcomes = pipelined(server.path, [step for call in bad for step in (call, good)])
    assert [outcome.error for outcome in outcomes[1::2]] == [""] * len(bad)
    expected = ["of no use", "nobody", "hook_nam", "not a map", "no_such_method"]
    for outcome, text in zip(outcomes[::2], expected, strict=True):
        assert text in outcome.error


def test_a_deadline_can_be_given(server: Listening) -> None:
    outcome = server.call("dispatch", {"hook_name": "waits_forever"}, {"timeout": 0.1})
    assert "EXPIRED" in outcome.error or "deadline" in outcome.error


def test_events_ping_and_hooks(server: Listening) -> None:
    event = {"payload": '{"message": {"Type": "FromGo"}, "handler_name": "on_failure", "spec": {"APIID": "a"}}'}
    assert server.call("dispatch_event", event) == Outcome({}, "")
    assert server.dispatch("last_event", request={"url": "/"})["request"]["set_headers"] == {"Last-Event": "FromGo"}
    assert server.call("ping") == Outcome("pong", "")
    names = {hook["name"] for bundle in server.call("hooks").result for hook in bundle["hooks"]}
    assert {"add_header", "on_failure", "keep"} <= names


def test_bodies_above_4_mib_go_both_ways(server: Listening) -> None:
    body = bytes(range(256)) * (5 * 1024 * 4)
    assert server.dispatch("same_body", request={"url": "/", "raw_body": body})["request"]["raw_body"] == body


def test_malformed_input_closes_only_its_own_connection(server: Listening) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(server.path))
        peer.sendall(msgpack.packb([0, 7, "ping", []]) + b"\xc1\xc1\xc1")
        received = b""
        while chunk := peer.recv(4096):
            received += chunk
    unpacker = msgpack.Unpacker()
    unpacker.feed(received)
    messages = list(unpacker)
    assert messages[0] == [1, 7, None, "pong"]
    assert server.call("ping") == Outcome("pong", "")
