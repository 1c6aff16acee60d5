"""Stand-ins for a plugin's own tests: a gateway in memory, for the time of a `with` block."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from tyk.call import API_KEY, ORG_KEY, REQUEST_ID, RUNNING, Metadata
from tyk.event import TykEvent
from tyk.gateway.backend import MemoryStorage, install, restore
from tyk.metrics import registry
from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object


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
        """Start at zero; `time` starts at the current time."""
        self._began_s = time.time()
        self._now_s = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._now_s

    def time(self) -> float:
        """Return the time in seconds since the epoch, for `tyk.time`."""
        return self._began_s + self._now_s

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
    """Give `TykGateway` an empty store, events and log; restore the previous ones at the end.

    Results of `tyk.cache` and values of `tyk.metrics` from before are forgotten.
    """
    registry.forget()
    clock = ManualClock()
    fake = FakeGateway(clock, MemoryStorage(clock))
    previous = install(fake.storage, fake._trigger, fake._log, clock, clock.time)
    try:
        yield fake
    finally:
        restore(previous)


class FakeHook(NamedTuple):
    """The hook of a `fake_call`."""

    name: str
    bundle: str
    file: str = ""


@contextmanager
def fake_call(
    metadata: Metadata = MappingProxyType({}),
    *,
    api_id: str = "",
    org_id: str = "",
    request_id: str = "",
    bundle: str = "bundle",
    hook: str = "hook",
    hook_type: str = "Pre",
    time_left: float = math.inf,
    attempt: int = 1,
) -> Iterator[None]:
    """Make `tyk.current()` return a call with these properties, for the time of a `with` block."""
    spec = {API_KEY: api_id, ORG_KEY: org_id}
    headers = {REQUEST_ID: request_id}
    subject: Object | TykEvent
    if hook_type == "Event":
        subject = TykEvent(spec=spec)
    else:
        subject = Object(hook_type=hook_type, spec=spec, request=MiniRequestObject(headers=headers))
    deadline_ns = 0 if math.isinf(time_left) else time.monotonic_ns() + int(time_left * 1e9)
    origin = MappingProxyType(dict(metadata)), deadline_ns, attempt, None
    before = RUNNING.set((FakeHook(hook, bundle), subject, time.monotonic_ns(), origin))
    try:
        yield
    finally:
        RUNNING.reset(before)
