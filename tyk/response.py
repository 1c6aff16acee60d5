"""The upstream's answer, as a response hook sees it: the protobuf messages themselves."""

from tyk.proto.coprocess_response_object_pb2 import Header
from tyk.proto.coprocess_response_object_pb2 import ResponseObject as TykResponse

__all__ = ["Header", "TykResponse"]
