"""How long to wait before a slot's next worker, by how its last ones ended."""

from typing import Final

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
"""A worker that could not start is tried again after these many seconds, doubled each time."""
HOPELESS_FAILURES: Final = 3
"""Every slot must have failed so often, with no worker ever ready, before the broker gives up."""
PROVEN_SECONDS: Final = 10.0
"""A worker that served so long, or that has answered anything, did not die of its start."""


class BackOff:
    """Failures in a row, by slot."""

    def __init__(self) -> None:
        self._failures: dict[int, int] = {}

    def failed(self, slot: int) -> float:
        """A worker did not start; returns the seconds until the next try."""
        return self._delay(self._count(slot))

    def died(self, slot: int, *, worked: bool, served: float) -> float:
        """A worker died that was ready for `served` seconds; returns the seconds until the next one.

        One that has shown that it works is replaced at once, and so is the first that dies right after its start;
        those that follow it wait, as those that do not start.
        """
        if worked or served >= PROVEN_SECONDS:
            self._failures.pop(slot, None)
            return 0.0
        count = self._count(slot)
        return self._delay(count - 1) if count > 1 else 0.0

    def forget(self, slot: int) -> None:
        """Start afresh: the slot is given up, or its content is new."""
        self._failures.pop(slot, None)

    def hopeless(self, slots: int) -> bool:
        """Whether all of the first `slots` slots have failed too often."""
        return all(self._failures.get(slot, 0) >= HOPELESS_FAILURES for slot in range(slots))

    def _count(self, slot: int) -> int:
        self._failures[slot] = self._failures.get(slot, 0) + 1
        return self._failures[slot]

    def _delay(self, count: int) -> float:
        return min(FIRST_DELAY * 2.0 ** (count - 1), LONGEST_DELAY)
