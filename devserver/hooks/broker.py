"""Hooks in a running broker: the development gateway in place of Tyk, in front of a real pool of workers."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.broker.errors import BrokerError
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.devserver.hooks.contract import HookAnswer, LoadedBundles, Problem

_DISPATCH: Final = "/coprocess.Dispatcher/Dispatch"
_DISPATCH_EVENT: Final = "/coprocess.Dispatcher/DispatchEvent"


class BrokerHooks:
    """Calls hooks over gRPC. What they print is in the broker's log."""

    def __init__(self, address: str, timeout: float) -> None:
        """`address` as for `tykpy call --connect`; a call may take `timeout` seconds."""
        self._address = address
        self._timeout = timeout
        self._idle: list[GrpcClient] = []
        """Connections; each carries one call at a time."""

    async def reload(self) -> LoadedBundles:
        """Do nothing: a broker looks after its bundles itself."""
        return LoadedBundles()

    async def call(self, sent: Object) -> HookAnswer:
        """Run the hook that the object names."""
        return await self._call(_DISPATCH, sent.SerializeToString(), Object.FromString)

    async def send_event(self, event: Event) -> HookAnswer:
        """Run an event handler."""
        return await self._call(_DISPATCH_EVENT, event.SerializeToString(), lambda _: None)

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    async def _call(self, path: str, body: bytes, read: Callable[[bytes], Object | None]) -> HookAnswer:
        started = time.perf_counter()
        try:
            answer = read(await asyncio.to_thread(self._exchange, path, body))
        except GrpcCallError as error:
            return HookAnswer(problem=Problem(error.code.name, error.message), seconds=time.perf_counter() - started)
        except (OSError, BrokerError, DecodeError) as error:
            return HookAnswer(problem=Problem("UNAVAILABLE", f"the broker at {self._address}: {error}"))
        return HookAnswer(answer, seconds=time.perf_counter() - started)

    def _exchange(self, path: str, body: bytes) -> bytes:
        """Make one call, on a connection that is idle or new; a connection that failed is not used again."""
        try:
            client = self._idle.pop()
        except IndexError:
            client = GrpcClient(self._address)
        try:
            answer = client.call(path, body, timeout=self._timeout)
        except GrpcCallError:
            self._idle.append(client)
            raise
        except BaseException:
            client.close()
            raise
        self._idle.append(client)
        return answer
