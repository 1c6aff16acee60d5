"""The codes of gRPC and of its health service, and which of them each `ipc.frame.Status` becomes."""

from enum import IntEnum
from typing import Final

from tykpy.ipc.frame import Status


class ServingStatus(IntEnum):
    """Status of a service in `grpc.health.v1`, with the values of the wire."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3
    """Only in answers to Watch."""


class GrpcCode(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    def __str__(self) -> str:
        return self.name


CODE_OF_STATUS: Final[dict[Status, GrpcCode]] = {
    Status.INVALID: GrpcCode.INVALID_ARGUMENT,
    Status.NOT_FOUND: GrpcCode.NOT_FOUND,
    Status.HOOK_FAILED: GrpcCode.INTERNAL,
    Status.EXPIRED: GrpcCode.DEADLINE_EXCEEDED,
    Status.TOO_LARGE: GrpcCode.RESOURCE_EXHAUSTED,
    Status.OVERLOADED: GrpcCode.RESOURCE_EXHAUSTED,
    Status.UNAVAILABLE: GrpcCode.UNAVAILABLE,
    Status.CANCELLED: GrpcCode.CANCELLED,
    Status.UNIMPLEMENTED: GrpcCode.UNIMPLEMENTED,
    Status.INTERNAL: GrpcCode.INTERNAL,
    Status.DENIED: GrpcCode.PERMISSION_DENIED,
}
