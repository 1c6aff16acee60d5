"""The MessagePack-RPC server on a real Unix socket with the blocking client, on both event loops."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import uvloop

from tests.support.peers.rpc_client import PipelinedRpcClient
from tykpy.broker.errors import DispatchError, RpcError
from tykpy.broker.msgpackrpc.methods import dispatch_methods
from tykpy.broker.msgpackrpc.server import MsgpackRpcServer, RpcLimits, RpcMethod, decoded
from tykpy.broker.router.dispatch import Dispatch
from tykpy.client.rpc import RpcClient
from tykpy.ipc.frame import Kind, Status

MIB = 1024 * 1024
OBJECT = {"hook_name": "Echo", "request": {"raw_body": b"\xff\x00", "body": "", "method": "GET"}, "session": None}


class EchoRouter:
    """Answers in the next turn of the loop, but keeps `Hold` in `held` and fails `Fail`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.held: list[Dispatch] = []
        self.cancelled = threading.Event()

    def dispatch(self, dispatch: Dispatch) -> None:
        name = msgpack.unpackb(dispatch.encoded).get("hook_name")
        if name == "Hold":
            self.held.append(dispatch)
        elif name == "Fail":
            dispatch.fail(DispatchError(Status.HOOK_FAILED, "hook Fail: ValueError: no: really"))
        else:
            self._loop.call_soon(dispatch.answer, Kind.OBJECT_MAP, dispatch.encoded)

    def cancel(self, dispatch: Dispatch) -> None:
        self.held.remove(dispatch)
        self.cancelled.set()


class RunningServer:
    """A server in its own thread, so that a blocking client can call it."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, limits: RpcLimits) -> None:
        self.path = path
        self._loop = loop
        self.router = EchoRouter(loop)
        self.server = MsgpackRpcServer(self._methods(), limits, loop)
        self._thread = threading.Thread(target=loop.run_forever)
        self._thread.start()
        self._listener = self.run(lambda: loop.create_unix_server(self.server.protocol_factory, str(path)))

    def _methods(self) -> dict[str, RpcMethod]:
        size = decoded(lambda params, reply: reply.answer(len(params[0])))
        return {**dispatch_methods(self.router, list), "size": size, "many": decoded(self._many)}

    def _many(self, params: list[Any], reply: Any) -> None:
        reply.answer(b"x" * params[0])

    def run(self, action: Callable[[], Any]) -> Any:
        """Run an action in the loop's thread and wait for its result."""

        async def inside() -> Any:
            result = action()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(30)

    def stop(self) -> None:
        self.run(self._listener.close)
        self.run(self.server.connections.abort)
        self.run(self.server.connections.closed)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


@pytest.fixture(scope="module")
def libuv() -> None:
    """Let libuv open its signal pipe, which it never closes, before the tests look for leaks."""
    uvloop.new_event_loop().close()


@pytest.fixture(params=["asyncio", "uvloop"])
def serve(request: pytest.FixtureRequest, libuv: None, tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    running: list[RunningServer] = []

    def start(**limits: Any) -> RunningServer:
        loop = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
        running.append(RunningServer(tmp_path / f"{len(running)}.sock", loop, RpcLimits(**limits)))
        return running[-1]

    yield start
    for server in running:
        server.stop()


Serve = Callable[..., RunningServer]


def test_a_call_comes_back_with_every_type(serve: Serve) -> None:
    server = serve()
    sent = {**OBJECT, "session": {"expires": 2**62, "rate": 3.0, "last_check": -1, "is_inactive": False, "tags": []}}
    with RpcClient(server.path) as client:
        back = client.call("dispatch", sent)
    assert back == sent
    assert [type(back["session"][key]) for key in ("expires", "rate", "is_inactive")] == [int, float, bool]
    assert [type(back["request"][key]) for key in ("raw_body", "body")] == [bytes, str]


def test_pipelined_calls_are_answered_in_the_caller_s_order(serve: Serve) -> None:
    server = serve(max_in_flight=16)
    calls = [("dispatch", [{"hook_name": "Fail" if n % 10 == 9 else f"hook {n}"}]) for n in range(500)]
    with PipelinedRpcClient(server.path) as client:
        results = client.pipeline(calls)
    for n, result in enumerate(results):
        if n % 10 == 9:
            assert (result.code, result.message) == ("HOOK_FAILED", "hook Fail: ValueError: no: really")
        else:
            assert result == {"hook_name": f"hook {n}"}


def test_an_error_is_raised_with_its_code(serve: Serve) -> None:
    with RpcClient(serve().path) as client:
        with pytest.raises(RpcError, match="no method 'dance'") as caught:
            client.call("dance")
        assert caught.value.code == "UNIMPLEMENTED"
        assert client.call("ping") == "pong"


def test_large_messages_both_ways(serve: Serve) -> None:
    big = {"request": {"raw_body": bytes(range(256)) * (16 * MIB // 256 - 1)}}
    server = serve()
    with RpcClient(server.path) as client:
        assert client.call("dispatch", big) == big
    with PipelinedRpcClient(server.path) as client:
        assert client.pipeline([("dispatch", [big])] * 3) == [big] * 3


def test_a_message_above_the_limit_ends_only_its_connection(serve: Serve) -> None:
    """The client receives an error, and other connections go on."""
    server = serve(max_message=MIB)
    with RpcClient(server.path) as other, RpcClient(server.path) as client:
        with pytest.raises(RpcError, match="--max-message") as caught:
            client.call("size", b"x" * (8 * MIB))
        assert caught.value.code == "TOO_LARGE"
        with pytest.raises(RpcError) as caught:
            client.call("ping")
        assert caught.value.code == "UNAVAILABLE"
        below = {"request": {"raw_body": b"x" * (MIB - 1000)}}
        assert other.call("dispatch", below) == below


def test_garbage_gets_an_error_and_costs_its_own_connection_only(serve: Serve) -> None:
    server = serve()
    with RpcClient(server.path) as other, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(server.path))
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        answer = msgpack.unpackb(read_to_end(peer))
        assert answer[:2] == [1, None]
        assert answer[2].startswith("INVALID: ")
        assert other.call("ping") == "pong"


def test_hanging_up_cancels(serve: Serve) -> None:
    server = serve()
    with PipelinedRpcClient(server.path) as client:
        client.notify("dispatch", {"hook_name": "Hold"})
        assert client.call("ping") == "pong"
        assert len(server.router.held) == 1
    assert server.router.cancelled.wait(30)
    assert server.router.held == []


def test_a_client_ends_with_its_first_call_that_is_late(serve: Serve) -> None:
    """A late answer cannot be taken for the next one."""
    server = serve()
    with RpcClient(server.path) as client:
        with pytest.raises(RpcError) as caught:
            client.call("dispatch", {"hook_name": "Hold"}, timeout=0.01)
        assert caught.value.code == "EXPIRED"
        with pytest.raises(RpcError) as caught:
            client.call("ping")
        assert caught.value.code == "UNAVAILABLE"
    assert server.router.cancelled.wait(30)


def test_a_late_answer_is_not_taken_for_the_next_one(serve: Serve) -> None:
    """A call fails as EXPIRED at its timeout, and its late answer is dropped."""
    server = serve()
    with PipelinedRpcClient(server.path) as client:
        while not server.router.held:  # on a busy machine a call may expire before it gets there
            with pytest.raises(RpcError) as caught:
                client.call("dispatch", {"hook_name": "Hold"}, timeout=0.01)
            assert caught.value.code == "EXPIRED"
        held = server.router.held[0]
        server.run(lambda: held.answer(Kind.OBJECT_MAP, b"\x80"))
        assert client.call("ping") == "pong"


def test_output_for_a_peer_that_does_not_read_is_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tykpy.broker.connections.SWEEP_INTERVAL", 0.02)
    server = serve(write_buffer=64 * 1024, write_timeout=0.05)
    call = msgpack.packb([0, 1, "many", [64 * 1024]])
    with RpcClient(server.path) as other, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(server.path))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_for_ever(peer, call * 100)
        assert len(read_to_end(peer)) < 8 * MIB
        assert other.call("ping") == "pong"


def test_drain_lets_a_call_finish_and_hangs_up(serve: Serve) -> None:
    server = serve()
    with PipelinedRpcClient(server.path) as client:
        client.notify("dispatch", {"hook_name": "Hold"})
        client.call("ping")
        server.run(server.server.drain)
        with pytest.raises(RpcError, match="shutting down"):
            client.call("ping")
        (held,) = server.router.held
        server.run(lambda: held.answer(Kind.OBJECT_MAP, b"\x80"))
        server.run(server.server.connections.closed)
        with pytest.raises(RpcError) as caught:
            client.call("ping")
        assert caught.value.code == "UNAVAILABLE"


def test_no_server_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RpcError, match=r"cannot connect to .*none\.sock: No such file") as caught:
        RpcClient(tmp_path / "none.sock")
    assert caught.value.code == "UNAVAILABLE"


def send_for_ever(peer: socket.socket, data: bytes) -> None:
    while True:
        peer.sendall(data)


def read_to_end(peer: socket.socket) -> bytes:
    chunks = []
    try:
        while chunk := peer.recv(1 << 16):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)
