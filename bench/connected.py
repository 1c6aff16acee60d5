"""A broker that runs already: which processes it has, and what it says of itself, as far as we may look."""

import socket
from pathlib import Path

from tykpy.bench.errors import BenchError, ProcessGoneError
from tykpy.bench.measure import broker_and_workers
from tykpy.bench.serving import status_of
from tykpy.broker.errors import BrokerError
from tykpy.broker.net.addresses import parse_unix
from tykpy.broker.net.port_owner import tcp_listener, unix_listener
from tykpy.client.dialing import ClientTls, dial
from tykpy.commands.objects import reason

CONNECT_SECONDS = 10.0


class ConnectedBroker:
    """Raises BenchError where nobody answers; a broker on another machine is measured by its answers alone.

    `runtime` is where its admin socket may be; it is looked for beside a Unix socket as well.
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
        """The broker and its workers, if it is on this machine and visible."""
        if not self._pid:
            return None
        try:
            return broker_and_workers(self._pid)
        except ProcessGoneError:
            return None

    def waiting(self) -> int | None:
        """What `tykpy status` calls waiting; None where no admin socket of this very broker is found."""
        for runtime in self._runtimes:
            status = status_of(runtime)
            if status is not None and status["pid"] == self._pid:
                return int(status["waiting"])
        return None


def _listener(address: str, tls: ClientTls | None) -> int:
    """The process that takes our connections; 0: it cannot be seen from here."""
    try:
        with dial(address, CONNECT_SECONDS, tls).socket as sock:
            if sock.family == socket.AF_UNIX:
                return unix_listener(sock)
            here, there = sock.getsockname(), sock.getpeername()
            return tcp_listener(there[1]) if here[0] == there[0] else 0
    except BrokerError as error:
        raise BenchError(str(error)) from error
    except OSError as error:
        raise BenchError(f"no broker answers at {address}: {reason(error)}") from error
