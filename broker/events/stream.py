"""A Redis Stream that gets every event: one entry each, with the fields `name`, `id` and `event` (the document)."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.config import BrokerConfig
from broker.events.delivery import Delivery, DeliveryError, DeliveryOptions, Verdict
from broker.events.events import TriggeredEvent

SOCKET_SECONDS: Final = 2.0
"""Each step of talking to Redis."""
BATCH: Final = 100
MAX_TOLD: Final = 200
"""Characters of what Redis says about an error."""


class RedisStream:
    """Appends events to a stream that is kept at about a number of entries."""

    name = "stream"
    batch = BATCH

    def __init__(self, url: str, stream: str, length: int) -> None:
        parts = urlsplit(url)
        self.display = f"Redis stream {stream!r} at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._password = unquote(parts.password or "")
        self._stream = stream
        self._length = length
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            protocol=2,
            # A connection that is found closed, as after a restart, is opened anew at once; other retries are ours.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )

    def deliver(self, events: Sequence[TriggeredEvent]) -> None:
        """Append them; after an error in between, the whole batch is appended again."""
        pipeline = self._client.pipeline(transaction=False)
        for event in events:
            fields: dict[str, str] = {"name": event.name, "id": event.id, "event": event.document}
            pipeline.xadd(self._stream, fields, maxlen=self._length, approximate=True)  # type: ignore[arg-type]
        try:
            pipeline.execute()
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise self._error(Verdict.AWAY, error) from error
        except redis.RedisError as error:
            raise self._error(Verdict.FAILED, error) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _error(self, verdict: Verdict, error: Exception) -> DeliveryError:
        text = f"{type(error).__name__}: {error}"
        return DeliveryError(verdict, (text.replace(self._password, "***") if self._password else text)[:MAX_TOLD])


def open_stream(config: BrokerConfig) -> Delivery:
    """The stream that is configured."""
    assert config.redis is not None
    assert config.event_stream is not None
    target = RedisStream(config.redis, config.event_stream, config.event_stream_length)
    return Delivery(target, DeliveryOptions(config.event_queue))
