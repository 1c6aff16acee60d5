"""`TykGateway`, the class that plugins call: storage, events and the log.

There is one such class however it is imported (`gateway` or `tyk.gateway`): both packages take it from here.
"""

import logging
from typing import Final

from tyk.gateway import backend
from tyk.gateway.values import EventPayload, StoredValue, check_key, check_ttl, encode_payload, encode_value

_LEVELS: Final = {"debug": logging.DEBUG, "warning": logging.WARNING, "error": logging.ERROR}


class TykGateway:
    """What a plugin may ask of its surroundings; every method is called on the class itself."""

    @staticmethod
    def store_data(key: str, value: StoredValue, ttl: float = 0) -> None:
        """Keep `value` under `key` for `ttl` seconds (0: for ever), for all workers, and gateways on one Redis.

        A store that fails is logged, not raised. Raises TypeError for a key, value or ttl of a wrong type.
        """
        backend.current().storage.store(check_key(key), encode_value(value), check_ttl(ttl))

    @staticmethod
    def get_data(key: str) -> bytes:
        """Return what was stored under `key`; empty where there is nothing, or the store does not answer."""
        return backend.current().storage.fetch(check_key(key))

    @staticmethod
    def trigger_event(name: str, payload: EventPayload) -> None:
        """Tell the event `name` to its handlers; a mapping travels as JSON."""
        backend.current().events.trigger(name, encode_payload(payload))

    @staticmethod
    def log(message: object, level: str = "info") -> None:
        """Log `message`; `level` is "debug", "warning" or "error", anything else counts as "info"."""
        backend.current().log.log(str(message), _LEVELS.get(level, logging.INFO))

    @staticmethod
    def log_error(message: object) -> None:
        """Log `message` as an error."""
        backend.current().log.log(str(message), logging.ERROR)
