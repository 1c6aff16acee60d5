"""Report the broker's state to the service manager (sd_notify(3)): READY=1, STATUS=..., STOPPING=1."""

import asyncio
import os
import socket
import time
from collections import deque
from typing import Final

RETRY_DELAY: Final = 0.1
"""Seconds until a message is sent again for which the manager had no room."""
MAX_UNSENT: Final = 64
"""Most messages that wait; the oldest are dropped."""


class ServiceNotifier:
    """Sends datagrams to `$NOTIFY_SOCKET` without ever blocking; does nothing without that variable."""

    def __init__(self, address: str | None) -> None:
        self._socket: socket.socket | None = None
        self._unsent: deque[bytes] = deque(maxlen=MAX_UNSENT)
        self._retry: asyncio.TimerHandle | None = None
        if not address:
            return
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    @classmethod
    def from_environment(cls) -> "ServiceNotifier":
        """Return the notifier for this process's service manager."""
        return cls(os.environ.get("NOTIFY_SOCKET"))

    def send(self, *lines: str) -> None:
        """Send one message of `NAME=value` lines. It is no error if the manager is gone."""
        if self._socket is not None:
            self._unsent.append("\n".join(lines).encode())
            self._flush()

    def reloading(self) -> None:
        """Report that a reload starts, and when (sd_notify(3), for units of Type=notify-reload)."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Report that a reload has ended, one way or the other."""
        self.send("READY=1")

    def close(self) -> None:
        """Close the socket; further messages are ignored."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _flush(self) -> None:
        try:
            while self._socket is not None and self._unsent:
                self._socket.sendto(self._unsent[0], self._address)
                self._unsent.popleft()
        except BlockingIOError:
            if self._retry is None:
                self._retry = asyncio.get_running_loop().call_later(RETRY_DELAY, self._try_again)
        except OSError:
            self.close()

    def _try_again(self) -> None:
        self._retry = None
        self._flush()
