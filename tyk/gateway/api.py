"""`TykGateway`, the class that plugins call: storage, events and the log.

The class is the same however it is imported (`gateway` or `tyk.gateway`): both packages take it from here. An argument
of a wrong type is an error of the plugin, and raised; a store that fails is logged.
"""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from tyk.gateway import backend

StoredValue: TypeAlias = str | bytes | bytearray | memoryview | int | float
EventPayload: TypeAlias = str | Mapping[str, Any]

MAX_TTL_S: Final = 100 * 365 * 24 * 3600.0
"""Longer times to live are cut to a hundred years, which fit the integers of Redis and SQLite."""
MAX_KEY: Final = 64 * 1024
"""Longest key in characters."""
MAX_VALUE: Final = 16 * 1024 * 1024
"""Largest value in bytes: a store is shared by all bundles."""
_LEVELS: Final = {"debug": logging.DEBUG, "warning": logging.WARNING, "error": logging.ERROR}


class TykGateway:
    """What a plugin may ask of its surroundings; every method is called on the class itself."""

    @staticmethod
    def store_data(key: str, value: StoredValue, ttl: float = 0) -> None:
        """Keep `value` under `key` for `ttl` seconds (0: for ever), for all workers, and gateways on one Redis.

        A store that fails is logged, not raised. Raises TypeError for a key, value or ttl of a wrong type, and
        ValueError for a key of more than 64 Ki characters or a value of more than 16 MiB.
        """
        backend.storage().store(check_key(key), encode_value(value), check_ttl(ttl))

    @staticmethod
    def get_data(key: str) -> bytes:
        """Return what was stored under `key`; empty where there is nothing, or the store does not answer."""
        return backend.storage().fetch(check_key(key))

    @staticmethod
    def trigger_event(name: str, payload: EventPayload) -> None:
        """Send the event `name` to its handlers; a mapping travels as JSON."""
        backend.current().trigger(name, _encode_payload(payload))

    @staticmethod
    def log(message: object, level: str = "info") -> None:
        """Log `message`; `level` is "debug", "warning" or "error", anything else counts as "info"."""
        backend.current().log(str(message), _LEVELS.get(level, logging.INFO))

    @staticmethod
    def log_error(message: object) -> None:
        """Log `message` as an error."""
        backend.current().log(str(message), logging.ERROR)


def check_ttl(ttl: float) -> float:
    """Return `ttl` in seconds, 0 for "no expiry"; raises TypeError or ValueError where it is no finite number."""
    if not isinstance(ttl, int | float) or isinstance(ttl, bool):
        raise TypeError(f"ttl is a number of seconds (0: no expiry), not {type(ttl).__name__}")
    if not math.isfinite(ttl):
        raise ValueError(f"ttl is a finite number of seconds (0: no expiry), not {ttl}")
    return min(max(ttl, 0), MAX_TTL_S)


def check_key(key: str) -> str:
    """Return `key`; raises TypeError if it is no str, and ValueError if it is too long."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {type(key).__name__}")
    if len(key) > MAX_KEY:
        raise ValueError(f"a key has at most {MAX_KEY} characters, not {len(key)}")
    return key


def encode_value(value: StoredValue) -> bytes:
    """Return the bytes that redis-py would send: text as UTF-8, numbers as Python writes them.

    Raises TypeError, and ValueError if they are too many.
    """
    encoded = _encode(value)
    if len(encoded) > MAX_VALUE:
        raise ValueError(f"a stored value has at most {MAX_VALUE} bytes, not {len(encoded)}")
    return encoded


def _encode(value: StoredValue) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    raise TypeError(f"a stored value is str, bytes, int or float, not {type(value).__name__}; encode it first")


def _encode_payload(payload: EventPayload) -> str:
    if isinstance(payload, str):
        return payload
    if isinstance(payload, Mapping):
        return json.dumps(dict(payload))
    raise TypeError(f"an event's payload is a str or a mapping, not {type(payload).__name__}")
