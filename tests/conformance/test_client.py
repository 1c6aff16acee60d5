"""Our blocking client against grpcio's server, and against our own."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.peers.grpc_server import PATIENCE, EchoServer
from tykpy.broker.codes import GrpcCode
from tykpy.broker.errors import AddressError
from tykpy.broker.http2.limits import MIB
from tykpy.client.grpc import GrpcCallError, GrpcClient

METHOD = "/coprocess.Dispatcher/Dispatch"


class GrpcioEcho(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Behaves like `EchoDispatcher`, as far as needed here."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def service(self, details: Any) -> Any:
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: Any) -> bytes:
        if request.startswith(b"fail:"):
            context.abort(grpc.StatusCode.NOT_FOUND, "no hook ä %")
        if request.startswith(b"hold:"):
            self.released.wait(PATIENCE)
        return request


@contextlib.contextmanager
def grpcio_server(tmp_path: Path, kind: str) -> Iterator[str]:
    echo = GrpcioEcho()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=(echo,), options=options)
        port = server.add_insecure_port(f"unix:{tmp_path}/s" if kind == "unix" else "127.0.0.1:0")
        server.start()
        yield f"unix://{tmp_path}/s" if kind == "unix" else f"tcp://127.0.0.1:{port}"
        echo.released.set()
        server.stop(0).wait(PATIENCE)


@pytest.fixture(params=["grpcio unix", "grpcio tcp", "own"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "own":
        with EchoServer(f"unix://{tmp_path}/s") as server:
            yield server.address
    else:
        with grpcio_server(tmp_path, request.param.split()[1]) as listening:
            yield listening


def test_calls_one_after_the_other(address: str) -> None:
    with GrpcClient(address) as client:
        for size in (0, 5, 855, 100_000, 16 * MIB, 1):
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            assert client.call(METHOD, body, timeout=PATIENCE, metadata={"Trace": "x"}) == body


def test_errors_have_code_and_text(address: str) -> None:
    with GrpcClient(address) as client:
        with pytest.raises(GrpcCallError) as caught:
            client.call(METHOD, "fail:NOT_FOUND:no hook ä %".encode())
        assert (caught.value.code, caught.value.message) == (GrpcCode.NOT_FOUND, "no hook ä %")
        with pytest.raises(GrpcCallError) as caught:
            client.call("/nothing/Here", b"x")
        assert caught.value.code == GrpcCode.UNIMPLEMENTED
        assert client.call(METHOD, b"after") == b"after"


def test_a_deadline_passes(address: str) -> None:
    with GrpcClient(address) as client:
        with pytest.raises(GrpcCallError) as caught:
            client.call(METHOD, b"hold:", timeout=0.05)
        assert caught.value.code == GrpcCode.DEADLINE_EXCEEDED
        assert client.call(METHOD, b"after") == b"after"


def test_calling_where_nobody_listens_fails(tmp_path: Path) -> None:
    for error, address in (
        (FileNotFoundError, f"unix://{tmp_path}/none"),
        (ConnectionRefusedError, "tcp://127.0.0.1:1"),
    ):
        with pytest.raises(error):
            GrpcClient(address)
    with pytest.raises(AddressError, match="not an address"):
        GrpcClient("somewhere")


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    with EchoServer(f"unix://{tmp_path}/s") as server, GrpcClient(server.address) as client:
        client.call(METHOD, b"x")
        server.run(server.grpc.connections.abort)
        with pytest.raises(OSError):  # noqa: PT011
            client.call(METHOD, b"x", timeout=PATIENCE)
