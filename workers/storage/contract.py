"""What every storage does, and the names under which values are kept."""

from typing import Final, Protocol

import tyk.gateway

KEY_PREFIX: Final = "coprocess-data:"
"""Put before every key, as the gateway's own `TykStoreData` does: it may read what a plugin stored."""


class SharedStorage(tyk.gateway.Storage, Protocol):
    """Keeps plugins' values; shared by all workers of a broker, usable from several threads.

    A failure is logged and not raised: `store` then drops the value, `fetch` answers empty.
    """

    def check(self) -> None:
        """Use it, so that a storage that cannot be used is known before a plugin needs it."""

    def close(self) -> None:
        """Close files and connections."""


def storage_key(key: str) -> bytes:
    """Return the name under which a plugin's `key` is kept."""
    return (KEY_PREFIX + key).encode("utf-8", "surrogatepass")
