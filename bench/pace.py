"""When calls are made, and from when their latency counts: a closed loop, or an open one at a fixed rate.

A closed loop makes the next call when one has ended: a server that stalls is asked less, and most callers who would
have come meanwhile are never seen ("coordinated omission"). An open loop makes calls when they are due, whatever the
server does, and a latency counts from that moment, even where the call could only be sent later.
"""

from typing import Protocol

from tykpy.bench.measure import NS_PER_SECOND


class Pace(Protocol):
    """All times are ns of one clock."""

    def take(self, now: int, room: int) -> list[int]:
        """The calls to make now, at most `room`: from when the latency of each counts."""

    def next_due(self) -> int | None:
        """When a call becomes due by itself; None: only when another one ends."""

    def late(self, now: int) -> int:
        """Calls that were due before `now` and have not been made."""


class ClosedLoop:
    """As many calls at once as there is room for."""

    def take(self, now: int, room: int) -> list[int]:
        """Fill the room."""
        return [now] * room

    def next_due(self) -> int | None:
        """Never by itself."""
        return None

    def late(self, now: int) -> int:
        """None is ever due."""
        return 0


class OpenLoop:
    """Call number n is due n/rate seconds after the start."""

    def __init__(self, rate: float, start: int) -> None:
        self._rate = rate
        self._start = start
        self._made = 0

    def take(self, now: int, room: int) -> list[int]:
        """All that are due; those without room keep the time at which they were due."""
        made, self._made = self._made, self._made + min(self.late(now + 1), room)
        return [self._due(number) for number in range(made, self._made)]

    def next_due(self) -> int | None:
        """When the next call is due."""
        return self._due(self._made)

    def late(self, now: int) -> int:
        """Those that had no room."""
        due = int((now - 1 - self._start) * self._rate / NS_PER_SECOND) + 1 if now > self._start else 0
        return max(0, due - self._made)

    def _due(self, number: int) -> int:
        return self._start + int(number * NS_PER_SECOND / self._rate)


class Window:
    """The measured part of a run: what is started in it counts for latency, what ends in it for throughput."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end
        self.answered = 0
        self.latencies: list[int] = []
        """In ns, of calls that were due within the window; the owner empties it."""

    def ended(self, started: list[int], now: int) -> None:
        """Calls that counted from these times have ended with OK."""
        if self.begin <= now < self.end:
            self.answered += len(started)
        self.latencies += [now - at for at in started if self.begin <= at < self.end]
