"""What `TykGateway` takes as key, value, time to live and payload, and what is made of it.

A wrong type is an error of the plugin, raised where it is made; a store that fails is not, and is logged.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

StoredValue: TypeAlias = str | bytes | bytearray | memoryview | int | float
EventPayload: TypeAlias = str | Mapping[str, Any]

MAX_TTL_S: Final = 100 * 365 * 24 * 3600.0
"""A longer time to live is as good as a hundred years, and still fits Redis's and SQLite's integers."""


def encode_value(value: StoredValue) -> bytes:
    """Return the bytes that redis-py would send: text as UTF-8, numbers as Python writes them.

    Raises TypeError for anything else, among it None and booleans.
    """
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    raise TypeError(f"a stored value is str, bytes, int or float, not {type(value).__name__}; encode it first")


def check_key(key: str) -> str:
    """Return `key`; raises TypeError where it is not a string."""
    if isinstance(key, str):
        return key
    raise TypeError(f"a key is a str, not {type(key).__name__}")


def check_ttl(ttl: float) -> float:
    """Return `ttl` in seconds, 0 for "no expiry"; raises TypeError, ValueError where it is no finite number."""
    if not isinstance(ttl, int | float) or isinstance(ttl, bool):
        raise TypeError(f"ttl is a number of seconds (0: no expiry), not {type(ttl).__name__}")
    if not math.isfinite(ttl):
        raise ValueError(f"ttl is a finite number of seconds (0: no expiry), not {ttl}")
    return min(max(ttl, 0), MAX_TTL_S)


def encode_payload(payload: EventPayload) -> str:
    """Return a string as it is, a mapping as JSON; raises TypeError for anything else."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, Mapping):
        return json.dumps(dict(payload))
    raise TypeError(f"an event's payload is a str or a mapping, not {type(payload).__name__}")
