"""A Redis Stream as a sink: one entry per event, with the fields `name`, `id` and `event` (the document)."""

from collections.abc import Sequence
from typing import Final

import redis

from tykpy.broker.events.delivery import DeliveryError, DeliveryVerdict
from tykpy.broker.events.event import ReceivedEvent
from tykpy.redisclient.address import RedisAddress
from tykpy.redisclient.client import OUTAGES, Client, Connected, connect, told

SOCKET_SECONDS: Final = 2.0
"""Timeout of each step of talking to Redis."""
BATCH: Final = 100


class RedisStream:
    """Appends events to a stream that is trimmed to about `length` entries."""

    name = "stream"
    batch = BATCH

    def __init__(self, address: RedisAddress, stream: str, length: int) -> None:
        self.display = f"Redis stream {stream!r} at {address.display}"
        self._address = address
        self._stream = stream
        self._length = length
        self._connected: Connected | None = None

    def deliver(self, events: Sequence[ReceivedEvent]) -> None:
        """Append events; after an error within a batch, the whole batch is appended again."""
        try:
            self._append(self._client(), events)
        except OUTAGES as error:
            raise DeliveryError(DeliveryVerdict.AWAY, told(self._address, error)) from error
        except redis.RedisError as error:
            raise DeliveryError(DeliveryVerdict.FAILED, told(self._address, error)) from error

    def close(self) -> None:
        """Close the connections."""
        connected, self._connected = self._connected, None
        if connected is not None:
            connected.close()

    def _client(self) -> Client:
        """Connect on first use, since connecting to a cluster asks it for its servers."""
        if self._connected is None:
            self._connected = connect(self._address, SOCKET_SECONDS)
        return self._connected.client

    def _append(self, client: Client, events: Sequence[ReceivedEvent]) -> None:
        pipeline = client.pipeline(transaction=False)
        for event in events:
            fields = {"name": event.name, "id": event.id, "event": event.document}
            pipeline.xadd(self._stream, fields, maxlen=self._length, approximate=True)
        pipeline.execute()
