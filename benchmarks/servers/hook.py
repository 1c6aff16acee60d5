"""What the servers that tykpy is compared with have in common: the hook, and the gRPC service around it."""

from typing import Any

import grpc

from benchmarks.objects import HEADER, HEADER_VALUE
from tyk.proto.coprocess_object_pb2 import Object

SERVICE = "coprocess.Dispatcher"


def add_header(item: Object) -> Object:
    """The hook: the same change as `benchmarks/bundle/middleware.py` makes."""
    item.request.set_headers[HEADER] = HEADER_VALUE
    return item


def add_header_to_bytes(data: bytes) -> bytes:
    """The hook with the decoding and encoding around it."""
    return add_header(Object.FromString(data)).SerializeToString()


def service(dispatch: Any, *, raw: bool = False) -> grpc.GenericRpcHandler:
    """The Dispatcher service whose Dispatch is `dispatch(request, context)`; `raw`: it takes and gives bytes."""
    handler = grpc.unary_unary_rpc_method_handler(
        dispatch,
        request_deserializer=None if raw else Object.FromString,
        response_serializer=None if raw else Object.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Dispatch": handler})
