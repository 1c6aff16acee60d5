"""Tell the service manager how we are, as sd_notify(3) says: READY=1, STATUS=..., STOPPING=1."""

import asyncio
import os
import socket
import time
from collections import deque
from typing import Final

RETRY_DELAY: Final = 0.1
"""Seconds after which a manager that had no room for a message is tried again."""
MAX_UNSENT: Final = 64
"""Messages that wait for it; the oldest give way to newer ones."""


class ServiceNotifier:
    """Sends datagrams to `$NOTIFY_SOCKET`, without ever waiting for who reads them; without one, does nothing."""

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
        """The notifier for this process's service manager."""
        return cls(os.environ.get("NOTIFY_SOCKET"))

    def send(self, *lines: str) -> None:
        """Send one message of `NAME=value` lines. A manager that is not there any more is not our failure."""
        if self._socket is not None:
            self._unsent.append("\n".join(lines).encode())
            self._flush()

    def reloading(self) -> None:
        """A reload starts (sd_notify(3): for units of Type=notify-reload, with the time it started)."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """It has ended, one way or the other."""
        self.send("READY=1")

    def close(self) -> None:
        """Close the socket; further messages go nowhere."""
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
