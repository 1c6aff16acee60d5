"""`python -m benchmarks.servers.grpc_aio ADDRESS`: grpcio's asyncio server."""

import asyncio
import sys

import grpc

from benchmarks.servers.hook import add_header, service
from tyk.proto.coprocess_object_pb2 import Object


async def dispatch(request: Object, context: grpc.aio.ServicerContext) -> Object:
    """Answer one call."""
    return add_header(request)


async def serve(address: str) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service(dispatch),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
