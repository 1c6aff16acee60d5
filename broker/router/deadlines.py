"""A timing wheel: find dispatches past their deadline at a cost that does not depend on how many are watched."""

from typing import Final

from tykpy.broker.router.dispatch import Dispatch

TICK_BITS: Final = 23
"""A slot of the wheel spans 2**23 ns (8.4 ms): a deadline is acted on at most one slot late."""
TICK_SECONDS: Final = (1 << TICK_BITS) / 1e9


class DeadlineWheel:
    """Dispatches by the slot that their deadline lies in. Adding and removing are one dict operation each."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[int, dict[Dispatch, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._slots)

    def add(self, dispatch: Dispatch) -> None:
        """Watch the dispatch's `deadline_ns`."""
        slot = dispatch.deadline_ns >> TICK_BITS
        try:
            self._slots[slot][dispatch] = None
        except KeyError:
            self._slots[slot] = {dispatch: None}

    def discard(self, dispatch: Dispatch) -> None:
        """Stop watching; the dispatch may be unknown."""
        slot = dispatch.deadline_ns >> TICK_BITS
        bucket = self._slots.get(slot)
        if bucket is not None:
            bucket.pop(dispatch, None)
            if not bucket:
                del self._slots[slot]

    def expired(self, now_ns: int) -> list[Dispatch]:
        """Remove and return every dispatch whose slot has completely passed, earliest slot first."""
        current = now_ns >> TICK_BITS
        due = sorted(slot for slot in self._slots if slot < current)
        return [dispatch for slot in due for dispatch in self._slots.pop(slot)]
