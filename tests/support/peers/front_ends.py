"""Both front ends behind one interface: the same calls over gRPC (grpcio) and MessagePack-RPC."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc

from tests.support.broker import PATIENCE, RunningBroker
from tests.support.peers.rpc_client import PipelinedRpcClient
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.codes import CODE_OF_STATUS
from tykpy.broker.errors import RpcError
from tykpy.ipc.frame import Status
from tykpy.workers.objects.msgpack_codec import to_map

Metadata = Mapping[str, str | bytes]
_SERVICE = "/coprocess.Dispatcher/"
_CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


class CallError(Exception):
    """A call failed, with the code as this front end's clients see it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Client(ABC):
    """One connection of a gateway. Raises CallError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def dispatch(self, obj: Object, timeout: float | None = None, metadata: Metadata | None = None) -> Object:
        """Dispatch an object; `timeout` tells the server how many seconds the caller has."""

    @abstractmethod
    def dispatch_event(self, event: Event, metadata: Metadata | None = None) -> bool:
        """Dispatch an event; return whether the reply was empty."""

    @abstractmethod
    def call(self, method: str) -> None:
        """Call a method of this name with an empty argument."""

    @abstractmethod
    def pipeline(self, objects: Sequence[Object]) -> list[Object]:
        """Dispatch many objects at once on this connection; return the answers in the order of the objects."""

    @abstractmethod
    def start(self, obj: Object) -> "Future[Object]":
        """Dispatch an object in the background; until it is answered, only `hang_up` may be called."""

    @abstractmethod
    def hang_up(self) -> None:
        """End the connection, whatever is in flight."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""


class GrpcFrontEnd:
    """The listener that Tyk uses."""

    garbage = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    def __init__(self, broker: RunningBroker) -> None:
        self.path = broker.socket

    def connect(self) -> Client:
        """A new connection."""
        return _GrpcConnection(self.path)

    def code_of(self, status: Status) -> str:
        """Return this front end's name of a status."""
        return CODE_OF_STATUS[status].name


class RpcFrontEnd:
    """The listener for gateways without gRPC."""

    garbage = b"\x94\x00\x01\xc1"

    def __init__(self, broker: RunningBroker) -> None:
        self.path = broker.runtime / "rpc.sock"

    def connect(self) -> Client:
        """A new connection."""
        return _RpcConnection(self.path)

    def code_of(self, status: Status) -> str:
        """Return this front end's name of a status."""
        return status.name


FrontEnd = GrpcFrontEnd | RpcFrontEnd
FRONT_ENDS: dict[str, type[GrpcFrontEnd] | type[RpcFrontEnd]] = {"grpc": GrpcFrontEnd, "msgpack": RpcFrontEnd}


def both_listeners(broker: RunningBroker) -> RunningBroker:
    """Make a broker that has not started listen for both."""
    broker.add_flags("--listen", broker.address, "--listen", f"msgpack+unix://{broker.runtime / 'rpc.sock'}")
    return broker


class _GrpcConnection(Client):
    def __init__(self, path: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{path}", options=_CHANNEL_OPTIONS)
        self._dispatch = self._channel.unary_unary(
            _SERVICE + "Dispatch", request_serializer=Object.SerializeToString, response_deserializer=Object.FromString
        )
        self._pool = ThreadPoolExecutor(1)

    def dispatch(self, obj: Object, timeout: float | None = None, metadata: Metadata | None = None) -> Object:
        pairs = tuple((metadata or {}).items())
        answer: Object = _grpc_result(self._dispatch.future(obj, timeout=timeout or PATIENCE, metadata=pairs))
        return answer

    def dispatch_event(self, event: Event, metadata: Metadata | None = None) -> bool:
        method = self._channel.unary_unary(_SERVICE + "DispatchEvent")
        pairs = tuple((metadata or {}).items())
        call = method.future(event.SerializeToString(), timeout=PATIENCE, metadata=pairs)
        return bool(_grpc_result(call) == b"")

    def call(self, method: str) -> None:
        _grpc_result(self._channel.unary_unary(_SERVICE + method).future(b"", timeout=PATIENCE))

    def pipeline(self, objects: Sequence[Object]) -> list[Object]:
        return [_grpc_result(call) for call in [self._dispatch.future(obj, timeout=PATIENCE) for obj in objects]]

    def start(self, obj: Object) -> "Future[Object]":
        call = self._dispatch.future(obj, timeout=PATIENCE)
        return self._pool.submit(_grpc_result, call)

    def hang_up(self) -> None:
        self._channel.close()

    def close(self) -> None:
        self._channel.close()
        self._pool.shutdown()


def _grpc_result(call: Any) -> Any:
    try:
        return call.result()
    except grpc.RpcError as error:
        raise CallError(error.code().name, error.details() or "") from error
    except grpc.FutureCancelledError as error:
        raise CallError(grpc.StatusCode.CANCELLED.name, "the channel was closed") from error


class _RpcConnection(Client):
    def __init__(self, path: Path) -> None:
        self._client = _Interruptible(path, PATIENCE)
        self._pool = ThreadPoolExecutor(1)

    def dispatch(self, obj: Object, timeout: float | None = None, metadata: Metadata | None = None) -> Object:
        given = {"timeout": timeout, "metadata": metadata}
        options = {name: value for name, value in given.items() if value is not None}
        params = (to_map(obj), options) if options else (to_map(obj),)
        return Object(**_rpc_result(lambda: self._client.call("dispatch", *params)))

    def dispatch_event(self, event: Event, metadata: Metadata | None = None) -> bool:
        params = (to_map(event),) if metadata is None else (to_map(event), {"metadata": metadata})
        return bool(_rpc_result(lambda: self._client.call("dispatch_event", *params)) == {})

    def call(self, method: str) -> None:
        _rpc_result(lambda: self._client.call(method, {}))

    def pipeline(self, objects: Sequence[Object]) -> list[Object]:
        outcomes = _rpc_result(lambda: self._client.pipeline([("dispatch", [to_map(obj)]) for obj in objects]))
        return [Object(**outcome) for outcome in outcomes]

    def start(self, obj: Object) -> "Future[Object]":
        return self._pool.submit(self.dispatch, obj)

    def hang_up(self) -> None:
        self._client.interrupt()

    def close(self) -> None:
        self._client.interrupt()
        self._pool.shutdown()
        self._client.close()


def _rpc_result(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RpcError as error:
        raise CallError(error.code, error.message) from error


class _Interruptible(PipelinedRpcClient):
    def interrupt(self) -> None:
        """End the connection under a call that another thread waits for."""
        if self._socket.fileno() >= 0:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the broker was quicker
