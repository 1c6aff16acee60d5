"""The service `grpc.health.v1.Health`, for load balancers, probes and `grpcurl`."""

from collections.abc import Mapping
from itertools import islice
from typing import Final

from tykpy.broker.codes import GrpcCode, ServingStatus
from tykpy.broker.grpc.head import Method
from tykpy.broker.grpc.local_call import LocalCall, UnaryCall
from tykpy.broker.grpc.wire import GrpcCallError
from tykpy.broker.http2.sender import Sender
from tykpy.broker.http2.stream import Stream
from tykpy.broker.protowire import ProtobufError, bytes_fields, pack_bytes, pack_int

BROKER_SERVICES: Final = ("", "coprocess.Dispatcher")
"""The services that stand for the whole broker."""
MAX_SHOWN: Final = 20
"""Services that an error names."""
_SERVICE_FIELD: Final = 1
_STATUS_FIELD: Final = 1
_MAP_KEY: Final = 1
_MAP_VALUE: Final = 2


class HealthService:
    """The status of each service, and the calls that watch it; NOT_SERVING until it is set."""

    def __init__(self) -> None:
        self.statuses: Mapping[str, ServingStatus] = dict.fromkeys(BROKER_SERVICES, ServingStatus.NOT_SERVING)
        self.watches: set[_Watch] = set()

    def set(self, statuses: Mapping[str, ServingStatus]) -> None:
        """Replace all services and their statuses, and send those that have changed to their watchers."""
        if statuses == self.statuses:
            return
        self.statuses = statuses
        for watch in list(self.watches):
            watch.update()

    def methods(self) -> dict[bytes, Method]:
        """Return the service's entries for the table of methods."""
        return {
            b"/grpc.health.v1.Health/Check": Method(
                serve=lambda sender, stream: UnaryCall(sender, stream, self._check)
            ),
            b"/grpc.health.v1.Health/List": Method(serve=lambda sender, stream: UnaryCall(sender, stream, self._list)),
            b"/grpc.health.v1.Health/Watch": Method(serve=lambda sender, stream: _Watch(sender, stream, self)),
        }

    def _check(self, payload: bytes) -> bytes:
        service = _service_name(payload)
        if service not in self.statuses:
            known = ", ".join(map(repr, islice(self.statuses, MAX_SHOWN)))
            raise GrpcCallError(GrpcCode.NOT_FOUND, f"unknown service {service!r}; known: {known}")
        return pack_int(_STATUS_FIELD, self.statuses[service])

    def _list(self, payload: bytes) -> bytes:
        return b"".join(
            pack_bytes(
                1,
                pack_bytes(_MAP_KEY, name.encode(errors="backslashreplace"))
                + pack_bytes(_MAP_VALUE, pack_int(_STATUS_FIELD, status)),
            )
            for name, status in self.statuses.items()
        )


class _Watch(LocalCall):
    """One call of Watch: sends the status, and again whenever it changes."""

    __slots__ = ("_health", "_sent", "_service")

    def __init__(self, sender: Sender, stream: Stream, health: HealthService) -> None:
        super().__init__(sender, stream)
        self._health = health
        self._service = ""
        self._sent: ServingStatus | None = None

    def message(self, payload: bytes) -> None:
        """Start to watch a service."""
        self._service = _service_name(payload)
        self._health.watches.add(self)
        self.update()

    def update(self) -> None:
        """Send the status unless it was sent before."""
        status = self._health.statuses.get(self._service, ServingStatus.SERVICE_UNKNOWN)
        if status != self._sent:
            self._sent = status
            self.send(pack_int(_STATUS_FIELD, status))

    def release(self) -> None:
        """Stop watching."""
        self._health.watches.discard(self)


def _service_name(payload: bytes) -> str:
    name = b""
    try:
        for number, value in bytes_fields(payload):
            if number == _SERVICE_FIELD:
                name = value
        return name.decode()
    except (ProtobufError, UnicodeDecodeError) as error:
        raise GrpcCallError(GrpcCode.INTERNAL, f"HealthCheckRequest: {error}") from error
