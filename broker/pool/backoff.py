"""Decide how long to wait before starting a slot's next worker, depending on how the last ones ended."""

from typing import Final

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
"""Seconds until a worker that could not start is tried again, doubled each time."""
HOPELESS_FAILURES: Final = 3
"""Failures in a row of every slot, with no worker ever ready, after which the broker gives up."""
PROVEN_SECONDS: Final = 10.0
"""A worker that served this long, or that answered anything, did not die because of its start."""


class BackOff:
    """Counts failures in a row, by slot."""

    def __init__(self) -> None:
        self._failures: dict[int, int] = {}

    def failed(self, slot: int) -> float:
        """Note that a worker did not start; return the seconds until the next try."""
        return self._delay(self._count(slot))

    def died(self, slot: int, *, worked: bool, served: float) -> float:
        """Note that a worker died that was ready for `served` seconds; return the seconds until the next one.

        A worker that `worked` is replaced at once, and so is the first that dies right after its start; the next ones
        are delayed like those that do not start.
        """
        if worked or served >= PROVEN_SECONDS:
            self._failures.pop(slot, None)
            return 0.0
        count = self._count(slot)
        return self._delay(count - 1) if count > 1 else 0.0

    def forget(self, slot: int) -> None:
        """Forget the failures of a slot that is removed, or whose next worker will load something else."""
        self._failures.pop(slot, None)

    def hopeless(self, slots: int) -> bool:
        """Return whether all of the first `slots` slots have failed too often."""
        return all(self._failures.get(slot, 0) >= HOPELESS_FAILURES for slot in range(slots))

    def _count(self, slot: int) -> int:
        self._failures[slot] = self._failures.get(slot, 0) + 1
        return self._failures[slot]

    def _delay(self, count: int) -> float:
        return min(FIRST_DELAY * 2.0 ** (count - 1), LONGEST_DELAY)
