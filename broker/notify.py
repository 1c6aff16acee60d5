"""Tell the service manager how we are, as sd_notify(3) says: READY=1, STATUS=..., STOPPING=1."""

import os
import socket


class ServiceNotifier:
    """Sends datagrams to `$NOTIFY_SOCKET`; without one, does nothing."""

    def __init__(self, address: str | None) -> None:
        self._socket: socket.socket | None = None
        if not address:
            return
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @classmethod
    def from_environment(cls) -> "ServiceNotifier":
        """The notifier for this process's service manager."""
        return cls(os.environ.get("NOTIFY_SOCKET"))

    def send(self, *lines: str) -> None:
        """Send one message of `NAME=value` lines. A manager that is not there any more is not our failure."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the socket; further messages go nowhere."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
