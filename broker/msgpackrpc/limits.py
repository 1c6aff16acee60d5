"""How much one MessagePack-RPC peer may ask for; the counterpart of `broker/http2/limits.py`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """What one connection may ask for: sizes in bytes, times in seconds."""

    max_message: int = 16 * 1024 * 1024
    max_connections: int = 64
    """Peers at a time; those beyond are told so and sent away."""
    max_in_flight: int = 1000
    """Calls without an answer; more are not read until some are answered."""
    max_in_flight_bytes: int = 64 * 1024 * 1024
    """Bytes of calls without an answer, likewise."""
    write_buffer: int = 1024 * 1024
    """Output waiting for the peer above which nothing more is read from it."""
    request_seconds: float = 60.0
    """For the rest of a message, or for `request_progress` of it where it is longer than that."""
    request_progress: int = 64 * 1024
    """Bytes of an unfinished message that make its time begin anew (why not one limit: `broker/http2/limits.py`)."""
    stall_seconds: float = 30.0
    """A peer that reads nothing of its output for so long is cut off."""
    linger_seconds: float = 2.0
    """How long a refused peer's bytes are still read, so that it can finish sending and see the error."""
