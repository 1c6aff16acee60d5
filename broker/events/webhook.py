"""A webhook as a sink: each event's JSON document is sent by POST, one after the other on a kept-alive connection.

Any status from 200 to 299 is success. `Idempotency-Key` is the event's id, the same in every attempt.
"""

import base64
import http.client
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

from tykpy.broker.events.delivery import DeliveryError, DeliveryVerdict
from tykpy.broker.events.event import ReceivedEvent

SOCKET_SECONDS: Final = 5.0
"""Timeout of each step of talking to the receiver."""
MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read to keep the connection alive; a longer one closes it."""
TRY_AGAIN: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Status codes that mean later, in addition to 500 to 599."""


class Webhook:
    """Posts events to one URL."""

    name = "webhook"
    batch = 1

    def __init__(self, url: str, timeout: float = SOCKET_SECONDS) -> None:
        parts = urlsplit(url)
        # The host alone: receivers put their secrets into user, path and query.
        self.display = f"webhook {parts.scheme}://{parts.netloc.rpartition('@')[2]}/..."
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "tykpy"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._connection = _connection(parts.scheme, parts.hostname or "", parts.port, timeout)
        self._used = False

    def deliver(self, events: Sequence[ReceivedEvent]) -> None:
        """Post the events; raises DeliveryError for the first one that is not taken."""
        for event in events:
            try:
                status = self._post(event)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                raise DeliveryError(DeliveryVerdict.FAILED, f"{type(error).__name__}: {error}") from error
            if not 200 <= status < 300:
                later = status >= 500 or status in TRY_AGAIN
                raise DeliveryError(DeliveryVerdict.FAILED if later else DeliveryVerdict.REFUSED, f"answered {status}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._used = False

    def _post(self, event: ReceivedEvent) -> int:
        try:
            return self._exchange(event)
        except (ConnectionError, http.client.BadStatusLine):
            # The receiver may have closed a connection that was idle for a while.
            if not self._used:
                raise
            self.close()
            return self._exchange(event)

    def _exchange(self, event: ReceivedEvent) -> int:
        headers = {**self._headers, "Idempotency-Key": event.id}
        self._connection.request("POST", self._path, event.document.encode(errors="replace"), headers)
        response = self._connection.getresponse()
        response.read(MAX_ANSWER)
        if response.isclosed():
            self._used = True
        else:
            self.close()
        return response.status


def _connection(scheme: str, host: str, port: int | None, timeout: float) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=timeout)
