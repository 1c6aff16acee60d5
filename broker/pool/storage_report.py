"""The state of the plugins' storage, from what workers report about their own use of it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.ring.layout import STORAGE_TIMES_EACH, StorageOperation, StorageState
from tykpy.redisclient.address import redact

MOST: Final = 2**53
"""Most errors and nanoseconds that are counted, because a worker may write any number."""
_WORDS: Final = {StorageState.UNUSED: "unused", StorageState.WORKS: "works", StorageState.FAILS: "fails"}


class StorageReport:
    """Adds up the reports of workers, including those that have ended."""

    def __init__(self, redis_url: str | None, runtime_dir: Path) -> None:
        self._kind, self._place = ("redis", redact(redis_url)) if redis_url else ("embedded", str(runtime_dir))
        self._past_errors = 0
        self._past_times = {operation: [0] * STORAGE_TIMES_EACH for operation in StorageOperation}

    def note_end(self, channel: BrokerChannel) -> None:
        """Add the counts of a worker that has ended, before its channel is closed."""
        self._past_errors += channel.storage_health()[1]
        for operation, past in self._past_times.items():
            self._past_times[operation] = _sum([past, channel.storage_times(operation)])

    def describe(self, channels: Iterable[BrokerChannel]) -> dict[str, Any]:
        """Describe the storage; it fails if it fails for any of these workers."""
        health = [channel.storage_health() for channel in channels]
        errors = self._past_errors + sum(count for _, count in health)
        state = max((state for state, _ in health if state in _WORDS), default=0)
        return {
            "kind": self._kind,
            "place": self._place,
            "state": _WORDS[StorageState(state)],
            "errors": min(errors, MOST),
        }

    def times(self, channels: Sequence[BrokerChannel]) -> dict[str, list[int]]:
        """Return the times of each operation: their sum in ns, and calls per bucket."""
        return {
            operation.name.lower(): _sum([past, *(channel.storage_times(operation) for channel in channels)])
            for operation, past in self._past_times.items()
        }


def _sum(rows: Sequence[Sequence[int]]) -> list[int]:
    return [min(sum(column), MOST) for column in zip(*rows, strict=True)]
