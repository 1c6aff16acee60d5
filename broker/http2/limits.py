"""Limits of the gRPC front end, each with its unit."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from tykpy.broker.arriving import HELD_BYTES

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_WINDOW: Final = 2**31 - 1
"""Bytes of the largest flow-control window (RFC 9113, section 6.9.1)."""
MIN_WINDOW: Final = 65_535
"""Bytes of a connection's window before any WINDOW_UPDATE; it cannot be made smaller."""

ANSWER_BYTES: Final = 16 * KIB
"""Bytes of a large answer that earn as many control frames as one answer: haproxy updates two windows for each DATA."""


DECODE_FACTOR: Final = 2
"""Header blocks and lists up to this multiple of the limit are still decoded, so that the caller learns their size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds for one server and each of its connections; bytes, counts and seconds as named.

    Raises ValueError for a value that is not positive, or a window the protocol does not allow.
    """

    max_message: int = 16 * MIB
    """Bytes of one gRPC message, after decompression."""
    max_output: int = HELD_BYTES
    """Bytes of answers that may wait for one peer to read them; more end the connection, but one answer always fits.
    A gateway has one connection, so this is as much as may run: `write_timeout` ends a peer that reads nothing."""
    max_connections: int = 16_384
    max_concurrent_streams: int = 1_024
    max_header_list: int = 32 * KIB
    """Bytes of one header list as RFC 9113, section 6.5.2 counts them (names, values, 32 for each field)."""
    max_header_frames: int = 64
    """Frames (HEADERS and CONTINUATION) of one header block."""
    stream_window: int = 1 * MIB
    """Receive window of a stream, in bytes."""
    connection_window: int = 16 * MIB
    """Receive window of a connection, in bytes."""
    control_burst: int = 10_000
    """PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty and unknown frames that may come at once."""
    control_rate: int = 1_000
    """Control frames a second, without any call answered."""
    control_per_answer: int = 16
    """Control frames that each answered call earns: clients update two windows for every message."""
    reset_burst: int = 4_096
    """Streams reset at once (four full sets of concurrent calls whose callers all hang up)."""
    reset_rate: int = 1_000
    """Streams reset a second, without any call answered."""
    handshake_timeout: float = 10.0
    """Seconds for the preface, the first SETTINGS and the acknowledgement of ours."""
    idle_timeout: float = 3_600.0
    """Seconds without a call after which a connection is told to go away."""
    max_age: float = math.inf
    """Seconds after which a connection is told to go away, whatever runs on it. Clients that balance over several
    brokers look for new ones when a connection ends, and at no other time."""
    request_timeout: float = 60.0
    """Seconds for the rest of a request, or for `request_progress` of it where it is longer than that."""
    request_progress: int = 64 * KIB
    """Bytes of an unfinished request that restart its timeout. A limit on the whole would be either too short for
    the largest message or useless against bytes that trickle in; a thousand calls at a time on a line of 10 Mbit/s
    are still faster than this."""
    write_timeout: float = 30.0
    """Seconds for which a peer may read nothing of the output that waits for it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be more than 0, not {getattr(self, field.name)}")
        if not MIN_WINDOW <= self.connection_window <= MAX_WINDOW:
            raise ValueError(f"connection_window must be {MIN_WINDOW} to {MAX_WINDOW} bytes")
        if self.stream_window > MAX_WINDOW:
            raise ValueError(f"stream_window must be at most {MAX_WINDOW} bytes")


class Budget:
    """A token bucket that is refilled by time and by answered calls: floods empty it, busy clients do not."""

    __slots__ = ("_burst", "_clock", "_per_answer", "_rate", "_seen_answers", "_seen_at", "_tokens")

    def __init__(self, burst: int, rate: int, per_answer: int, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._rate = rate
        self._per_answer = per_answer
        self._clock = clock
        self._tokens = float(burst)
        self._seen_at = clock()
        self._seen_answers = 0

    def spend(self, answers: int, cost: int = 1) -> bool:
        """Take `cost` tokens and return whether any are left; `answers` counts the calls answered so far."""
        self._tokens -= cost
        if self._tokens < 0:
            self._refill(answers)
        return self._tokens >= 0

    def _refill(self, answers: int) -> None:
        now = self._clock()
        earned = (now - self._seen_at) * self._rate + (answers - self._seen_answers) * self._per_answer
        self._tokens = min(self._tokens + earned, float(self._burst))
        self._seen_at = now
        self._seen_answers = answers
