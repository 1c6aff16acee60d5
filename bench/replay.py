"""Recorded calls as a scenario: what clients really send, in its real proportions."""

import heapq
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Final

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.errors import BenchError
from tykpy.bench.scenarios import MIB, Scenario
from tykpy.commands.objects import bundle_hash
from tykpy.telemetry.records import counted
from tykpy.traffic.recording import CallRecord, Recording
from tykpy.traffic.replay import recorded_bundle

MAX_CALLS: Final = 10_000
MAX_BYTES: Final = 64 * MIB
"""Most calls, and bytes of all of them, that are kept of a recording and sent in turn."""
_SEED: Final = 0
_FAILED: Final = "failed call"
_EVENTS: Final = "event"


def replay_scenario(file: Path, bundle: Path, hook: str | None, recorded: str | None, *, needs_files: bool) -> Scenario:
    """Return the recorded calls that `bundle` gets in place of the bundle called `recorded`, of one hook or of all.

    Raises BenchError or CommandError if there are none.
    """
    if needs_files and not bundle.exists():
        raise BenchError(f"--bundle {bundle}: no such folder or file")
    name = bundle.resolve().name if needs_files else bundle.name
    with closing(Recording(file)) as recording:
        replaced = recorded_bundle(recording.calls(), name, recorded)
    with closing(Recording(file)) as recording:
        chosen = CallSample()
        for call in recording.calls():
            if call.bundle == replaced and hook in (None, call.hook):
                chosen.add(call)
    of = f"{replaced}/{hook}" if hook else replaced
    left_out = " and ".join(counted(count, what) for what, count in chosen.left_out.items())
    left_out = f"; {left_out} left out" if left_out else ""
    requests = chosen.requests()
    if not requests:
        raise BenchError(f"{file}: no recorded calls of {of} can be sent{left_out}")
    messages = tuple(_addressed(request, name) for request in requests)
    some = f"{len(messages)} of " if len(messages) < chosen.suitable else ""
    return Scenario(
        hook or "replay",
        lambda _: Object.FromString(messages[0]),
        lambda _: True,
        (bundle,) if needs_files else (),
        messages=messages,
        note=f"sending {some}{counted(chosen.suitable, 'recorded call')} of {of} in turn{left_out}",
    )


class CallSample:
    """A random choice of calls within bounds, in random order: every part of it has the proportions of the whole.

    It is the same for the same recording, so that two runs can be compared.
    """

    def __init__(self, max_calls: int = MAX_CALLS, max_bytes: int = MAX_BYTES) -> None:
        self.suitable = 0
        """Calls that can be sent; those that are kept are chosen from them."""
        self.left_out: Counter[str] = Counter()
        """Calls that cannot, by the reason."""
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._bytes = 0
        self._random = Random(_SEED)
        self._kept: list[tuple[float, bytes]] = []
        """A heap of places in the order, negative so that the last comes first, and requests."""

    def add(self, call: CallRecord) -> None:
        """Take a call into account."""
        if call.event:
            self.left_out[_EVENTS] += 1
        elif call.code != "OK" or not call.request:
            self.left_out[_FAILED] += 1
        else:
            self.suitable += 1
            heapq.heappush(self._kept, (-self._random.random(), call.request))
            self._bytes += len(call.request)
            while len(self._kept) > self._max_calls or self._bytes > self._max_bytes:
                self._bytes -= len(heapq.heappop(self._kept)[1])

    def requests(self) -> list[bytes]:
        """Return the requests in the order in which they are to be sent."""
        return [request for _, request in sorted(self._kept, reverse=True)]


def _addressed(request: bytes, bundle: str) -> bytes:
    """Return the request for another bundle."""
    obj = Object.FromString(request)
    obj.spec["bundle_hash"] = bundle_hash(bundle)
    return obj.SerializeToString()
