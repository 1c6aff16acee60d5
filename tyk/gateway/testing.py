"""Stand-ins for a plugin's own tests: a gateway in memory, for the time of a `with` block."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from tyk.call import METADATA, Metadata
from tyk.gateway.backend import MemoryStorage, install, restore


class TriggeredEvent(NamedTuple):
    """One call of `TykGateway.trigger_event`."""

    name: str
    payload: str


class LoggedMessage(NamedTuple):
    """One call of `TykGateway.log`."""

    level: str
    message: str


class ManualClock:
    """A clock that moves only when it is advanced."""

    def __init__(self) -> None:
        """Start at zero."""
        self._now_s = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now_s += seconds


@dataclass(frozen=True, slots=True)
class FakeGateway:
    """What a plugin stored, triggered and logged."""

    clock: ManualClock
    storage: MemoryStorage
    events: list[TriggeredEvent] = field(default_factory=list)
    """The events triggered so far."""
    messages: list[LoggedMessage] = field(default_factory=list)
    """The messages logged so far."""

    def _trigger(self, name: str, payload: str) -> None:
        self.events.append(TriggeredEvent(name, payload))

    def _log(self, message: str, level: int) -> None:
        self.messages.append(LoggedMessage(logging.getLevelName(level).lower(), message))


@contextmanager
def fake_gateway() -> Iterator[FakeGateway]:
    """Give `TykGateway` an empty store, events and log; restore the previous ones at the end."""
    clock = ManualClock()
    fake = FakeGateway(clock, MemoryStorage(clock))
    previous = install(fake.storage, fake._trigger, fake._log)
    try:
        yield fake
    finally:
        restore(previous)


@contextmanager
def fake_call(metadata: Metadata) -> Iterator[None]:
    """Make `tyk.current()` return a call with this metadata."""
    before = METADATA.set(MappingProxyType(dict(metadata)))
    try:
        yield
    finally:
        METADATA.reset(before)
