"""What is measured: programs that a benchmark starts, above all a broker of its own, and brokers that run already."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tykpy.bench.errors import ProcessGoneError, ServerError
from tykpy.bench.load import connect
from tykpy.bench.measure import broker_and_workers
from tykpy.broker.config import AUTO
from tykpy.broker.net.addresses import parse_unix
from tykpy.broker.net.port_owner import tcp_listener, unix_listener
from tykpy.client.dialing import ClientTls
from tykpy.commands.errors import CommandError
from tykpy.commands.pool import ask_broker
from tykpy.commands.private_broker import PrivateBroker

STATUS_SECONDS: Final = 1.0
MIN_MAX_STREAMS: Final = 1000


class OwnBroker(PrivateBroker):
    """A broker that the benchmark starts. `threads` 0 means auto."""

    def __init__(
        self,
        bundles: Iterable[Path],
        workers: int,
        threads: int,
        streams: int,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment`: variables besides those of this process."""
        most = max(streams, MIN_MAX_STREAMS)
        own = ("--threads", str(threads or AUTO), "--max-streams", str(most))
        super().__init__(bundles, workers, (*own, *options), environment)
        self.threads = threads
        self.tls: ClientTls | None = None

    def pids(self) -> list[int]:
        """Return the broker and its workers; raises ServerError if it has ended."""
        try:
            return broker_and_workers(self.pid)
        except ProcessGoneError as error:
            raise ServerError(f"the broker has ended; its log:\n{self.output}") from error

    def waiting(self) -> int | None:
        """Return how many dispatches wait for a worker; None if the broker is too busy to say."""
        return _waiting(self.folder, self.pid)


class ConnectedBroker:
    """A broker that others have started; one on another machine is measured by its answers alone.

    Its admin socket is looked for beside its Unix socket and in `runtime`. Raises BenchError if nobody answers.
    """

    def __init__(self, address: str, tls: ClientTls | None = None, runtime: Path | None = None) -> None:
        self.address = address
        self.tls = tls
        self.threads = 0
        self._pid = _listener(address, tls)
        self.workers = max(0, len(self.pids() or ()) - 1)
        beside = [parse_unix(address).parent] if address.startswith("unix:") else []
        self._runtimes = [*beside, *([runtime] if runtime else [])]

    def pids(self) -> list[int] | None:
        """Return the broker and its workers; None if they are not visible on this machine."""
        if not self._pid:
            return None
        try:
            return broker_and_workers(self._pid)
        except ProcessGoneError:
            return None

    def waiting(self) -> int | None:
        """Return how many dispatches wait for a worker; None if no admin socket of this very broker is found."""
        found = (_waiting(runtime, self._pid) for runtime in self._runtimes)
        return next((waiting for waiting in found if waiting is not None), None)


MeasuredBroker = OwnBroker | ConnectedBroker


def _waiting(runtime: Path, pid: int) -> int | None:
    """Return how many dispatches wait in this broker; None if it is not there, or too busy to say."""
    try:
        status = ask_broker(runtime, "status", timeout=STATUS_SECONDS)
    except CommandError:
        return None
    return int(status["waiting"]) if status["pid"] == pid else None


def _listener(address: str, tls: ClientTls | None) -> int:
    """Return the process that accepts our connections, 0 if it cannot be seen from here; raises BenchError."""
    with connect(address, tls).socket as sock:
        if sock.family == socket.AF_UNIX:
            return unix_listener(sock)
        here, there = sock.getsockname(), sock.getpeername()
        return tcp_listener(there[1]) if here[0] == there[0] else 0
