"""`python -m benchmarks.servers.grpc_sync ADDRESS`: a grpcio server as most hand-written Tyk plugins are."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.servers.hook import add_header, service
from tyk.proto.coprocess_object_pb2 import Object

THREADS = 10
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""No limit, as a gateway's `grpc_recv_max_size` and `grpc_send_max_size` need it for bodies above 4 MiB."""


def dispatch(request: Object, context: grpc.ServicerContext) -> Object:
    """Answer one call."""
    return add_header(request)


def serve(address: str, dispatch: Callable[[Object, grpc.ServicerContext], Object]) -> None:
    """Serve until the process is ended."""
    server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)
    server.add_generic_rpc_handlers((service(dispatch),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(sys.argv[1], dispatch)
