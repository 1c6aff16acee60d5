"""The service `grpc.health.v1.Health`, for load balancers, probes and `grpcurl`."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from tykpy.broker.grpc.head import Method
from tykpy.broker.grpc.local_call import LocalCall, LocalHandler, UnaryHandler
from tykpy.broker.grpc.wire import GrpcCallError, GrpcCode
from tykpy.broker.protowire import ProtobufError, bytes_fields, pack_bytes, pack_int

DISPATCHER_SERVICE: Final = "coprocess.Dispatcher"
_SERVICE_FIELD: Final = 1
_STATUS_FIELD: Final = 1
_MAP_KEY: Final = 1
_MAP_VALUE: Final = 2


class ServingStatus(IntEnum):
    """Status of a service, with the values of the wire."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3
    """Only in answers to Watch."""


class HealthService:
    """The status of each service, and the calls that watch it; NOT_SERVING until it is set."""

    def __init__(self) -> None:
        self._statuses = {"": ServingStatus.NOT_SERVING, DISPATCHER_SERVICE: ServingStatus.NOT_SERVING}
        self._watches: set[_Watch] = set()

    @property
    def statuses(self) -> Mapping[str, ServingStatus]:
        """Status by service; the empty name stands for the whole server."""
        return self._statuses

    def set(self, status: ServingStatus, service: str | None = None) -> None:
        """Set the status of one service, or of all, and send it to those who watch."""
        for name in list(self._statuses) if service is None else (service,):
            self._statuses[name] = status
        for watch in list(self._watches):
            watch.update()

    def methods(self) -> dict[bytes, Method]:
        """Return the service's entries for the table of methods."""
        return {
            b"/grpc.health.v1.Health/Check": Method(serve=lambda call: UnaryHandler(call, self._check)),
            b"/grpc.health.v1.Health/List": Method(serve=lambda call: UnaryHandler(call, self._list)),
            b"/grpc.health.v1.Health/Watch": Method(serve=lambda call: _Watch(call, self._watches, self._statuses)),
        }

    def _check(self, payload: bytes) -> bytes:
        service = _service_name(payload)
        if service not in self._statuses:
            known = ", ".join(repr(name) for name in self._statuses)
            raise GrpcCallError(GrpcCode.NOT_FOUND, f"unknown service {service!r}; known: {known}")
        return pack_int(_STATUS_FIELD, self._statuses[service])

    def _list(self, payload: bytes) -> bytes:
        return b"".join(
            pack_bytes(1, pack_bytes(_MAP_KEY, name.encode()) + pack_bytes(_MAP_VALUE, pack_int(_STATUS_FIELD, status)))
            for name, status in self._statuses.items()
        )


class _Watch(LocalHandler):
    """One call of Watch: sends the status, and again whenever it changes."""

    __slots__ = ("_sent", "_service", "_statuses", "_watches")

    def __init__(self, call: LocalCall, watches: "set[_Watch]", statuses: Mapping[str, ServingStatus]) -> None:
        super().__init__(call)
        self._watches = watches
        self._statuses = statuses
        self._service = ""
        self._sent: ServingStatus | None = None

    def message(self, payload: bytes) -> None:
        """Start to watch a service."""
        self._service = _service_name(payload)
        self._watches.add(self)
        self.update()

    def update(self) -> None:
        """Send the status unless it was sent before."""
        status = self._statuses.get(self._service, ServingStatus.SERVICE_UNKNOWN)
        if status != self._sent:
            self._sent = status
            self.call.send(pack_int(_STATUS_FIELD, status))

    def cancelled(self) -> None:
        """Stop watching."""
        self._watches.discard(self)


def _service_name(payload: bytes) -> str:
    name = b""
    try:
        for number, value in bytes_fields(payload):
            if number == _SERVICE_FIELD:
                name = value
        return name.decode()
    except (ProtobufError, UnicodeDecodeError) as error:
        raise GrpcCallError(GrpcCode.INTERNAL, f"HealthCheckRequest: {error}") from error
