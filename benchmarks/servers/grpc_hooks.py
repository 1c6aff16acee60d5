"""`python -m benchmarks.servers.grpc_hooks ADDRESS`: a grpcio server with the hooks of `benchmarks.gateway`."""

import sys
from types import ModuleType
from typing import Any

import grpc

from benchmarks.gateway.hooks import headers, slow
from benchmarks.servers.grpc_sync import serve
from tyk.proto.coprocess_object_pb2 import Object


class HookRequest:
    """What the hooks use of a request."""

    __slots__ = ("_headers",)

    def __init__(self, item: Object) -> None:
        self._headers = item.request.set_headers

    def add_header(self, name: str, value: str) -> None:
        """Set a header of the request."""
        self._headers[name] = value


def _hooks(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name.startswith(("header_", "wait_", "cpu_"))}


_FIVE = _hooks(headers)
_CHAINS = {name: (hook,) for name, hook in {**_FIVE, **_hooks(slow)}.items()} | {"*": tuple(_FIVE.values())}


def dispatch(item: Object, context: grpc.ServicerContext) -> Object:
    """Run the hook, or all five of them for `*`."""
    request = HookRequest(item)
    for hook in _CHAINS[item.hook_name]:
        hook(request, item.session, item.spec)
    return item


if __name__ == "__main__":
    serve(sys.argv[1], dispatch)
