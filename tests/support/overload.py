"""Calls at a fixed rate that is more than the workers can run, and the hook's account of each run.

The hook writes down how long before its deadline the worker claimed it: the very number that the worker compares.
"""

import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import grpc

from tykpy.commands.objects import CallDescription, build_object

SOURCE: Final = """
import os, pkgutil, sys, time
from tyk.decorators import Pre

journal = os.open(os.environ["OVERLOAD_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
layout = pkgutil.resolve_name("tykpy.ipc.ring.layout")

def time_left():
    frame = sys._getframe()
    while frame.f_code.co_name != "_serve":
        frame = frame.f_back
    found = frame.f_locals
    return found["request"].deadline_ns - found["channel"]._words[layout.ACTIVE_START + found["slot"]]

@Pre
def takes_time(request, session, spec):
    nonce = request.get_header("Nonce")
    os.write(journal, f"{nonce} {time_left()}\\n".encode())
    time.sleep(float(request.get_header("Seconds")))
    request.add_header("Nonce", nonce)
    return request, session
"""
METHOD: Final = "/coprocess.Dispatcher/Dispatch"
CALL_PATIENCE: Final = 300.0
"""Seconds; large enough that calls end with the broker's answer, not with the client's timeout."""


class Run(NamedTuple):
    """One run of the hook, as it recorded it."""

    nonce: str
    left_ns: int
    """Seconds from the worker's claim to the deadline."""


class OpenLoopCallers:
    """Starts calls when they are due; as a context, ends when all calls have ended."""

    def __init__(self, address: str, rate: float, hook_seconds: float) -> None:
        self.answers: list[str] = []
        self.failures: dict[str, str] = {}
        """Code and message by nonce."""
        self.calls = 0
        self._address = address
        self._rate = rate
        self._hook_seconds = hook_seconds
        self._lock = threading.Lock()
        self._all_ended = threading.Condition(self._lock)
        self._channel: Any = None

    def __enter__(self) -> Self:
        self._channel = grpc.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._lock:
                ended = self._all_ended.wait_for(lambda: self.ended == self.calls, CALL_PATIENCE)
            assert ended, f"{self.ended} of {self.calls} calls have ended"
        finally:
            self._channel.close()

    @property
    def ended(self) -> int:
        """The number of calls that have ended, with or without an error."""
        return len(self.answers) + len(self.failures)

    def press(self, seconds: float) -> None:
        """Make calls for so many seconds."""
        start = time.monotonic()
        for number in range(int(seconds * self._rate)):
            # When a call is due is the load itself: nothing is waited for here.
            time.sleep(max(0.0, start + number / self._rate - time.monotonic()))
            self.call(f"n{number}")

    def call(self, nonce: str) -> Any:
        """Make one call now; return its future."""
        headers = [("Nonce", nonce), ("Seconds", str(self._hook_seconds))]
        body = build_object(CallDescription("takes_time", bundle="overload", headers=headers)).SerializeToString()
        with self._lock:
            self.calls += 1
        call = self._channel.unary_unary(METHOD).future(body, timeout=CALL_PATIENCE)
        call.add_done_callback(lambda done: self._end(nonce, done))
        return call

    def _end(self, nonce: str, call: Any) -> None:
        error = call.exception()
        with self._lock:
            if error is None:
                self.answers.append(nonce)
            else:
                self.failures[nonce] = f"{error.code().name}: {error.details()}"
            self._all_ended.notify_all()


def runs_in(journal: Path) -> list[Run]:
    """The runs that the hook recorded."""
    rows = (line.split() for line in journal.read_text().splitlines())
    return [Run(nonce, int(left)) for nonce, left in rows]


def codes(failures: dict[str, str]) -> Counter[str]:
    """Count the failed calls by code."""
    return Counter(text.partition(":")[0] for text in failures.values())
