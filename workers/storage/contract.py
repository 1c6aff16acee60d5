"""The interface of every storage, and the names under which values are kept."""

from typing import Final, Protocol

import tyk.gateway

KEY_PREFIX: Final = "coprocess-data:"
"""Put before every key, as the gateway's own `TykStoreData` does: it may read what a plugin stored."""


class SharedStorage(tyk.gateway.Storage, Protocol):
    """Keeps plugins' values; shared by all workers of a broker, and safe to use from several threads.

    Failures are logged and not raised: `store` then drops the value, and `fetch` returns an empty one.
    """

    def check(self) -> None:
        """Try the storage, so that a failure is known before a plugin needs it."""

    def close(self) -> None:
        """Close files and connections."""


def storage_key(key: str) -> bytes:
    """Return the name under which a plugin's `key` is kept."""
    return (KEY_PREFIX + key).encode("utf-8", "surrogatepass")
