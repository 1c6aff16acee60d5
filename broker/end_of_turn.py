"""The end of a turn: what one callback of the event loop causes is collected, and done once when it is over.

A turn takes bytes of a peer, or answers of a worker. The doorbells to be rung and the answers to be written for all of
it follow at its end. `loop.call_soon` would collect as well, but one pass through the event loop later: with one call
at a time that is a twentieth of all CPU time, twice.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from tykpy.broker.faults import report


class Turn:
    """Used as a context manager around what belongs to one turn."""

    __slots__ = ("_due", "_loop", "_under_way")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[Callable[[], None]] = deque()
        self._under_way = False

    def __enter__(self) -> None:
        self._under_way = True

    def __exit__(self, *error: object) -> None:
        self._under_way = False
        if self._due:
            self._end()

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call back when this turn is over; outside of a turn, in the event loop's next pass."""
        self._due.append(callback)
        if not self._under_way and len(self._due) == 1:
            self._loop.call_soon(self._end)

    def _end(self) -> None:
        due = self._due
        while due:
            try:
                due.popleft()()
            except Exception as fault:  # noqa: BLE001 (the others are not to suffer for it)
                report(fault)
