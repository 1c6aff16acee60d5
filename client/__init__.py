"""Clients of a broker: dialling, gRPC and MessagePack-RPC."""

from typing import Self


class ClosedAtEnd:
    """A client that a `with` block closes."""

    def close(self) -> None:
        """Close the connection."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
