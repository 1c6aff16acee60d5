"""Load for tests that kill: grpcio clients with many calls in flight, and an account of what became of each call.

The hook writes down that it runs before it does anything else, so that an answer can be held against what happened.
"""

import itertools
import threading
from collections import Counter, deque
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import grpc

from tests.support.broker import PATIENCE, wait_until
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.commands.objects import CallDescription, build_object

SOURCE = """
import os
from tyk.decorators import Pre

journal = os.open(os.environ["CHAOS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@Pre
def recorded(request, session, spec):
    nonce = request.get_header("Nonce")
    os.write(journal, f"\\n{os.getpid()} {nonce} whole\\n".encode())
    sum(range(30_000))  # about 0.5 ms in which it can be killed
    request.add_header("Nonce", nonce)
    return request, session
"""
"""One small append per line is never mixed with others. If the process is killed within it, a part may be written."""

METHOD = "/coprocess.Dispatcher/Dispatch"
CALL_PATIENCE: Final = 10 * PATIENCE
"""Seconds; large enough that no call fails because of it, whatever is killed."""
_CHANNEL_OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
]


class Failure(NamedTuple):
    """How a call failed."""

    code: str
    message: str


class Callers:
    """Connections with a window of calls in flight each; a context that ends when all `calls` have ended."""

    def __init__(self, target: str, calls: int | None, connections: int = 4, window: int = 8) -> None:
        """`calls`: None for as many as can be made until `stop`."""
        self.answers: dict[str, str] = {}
        """Returned nonce by sent nonce."""
        self.failures: dict[str, Failure] = {}
        self.done = threading.Event()
        """Set when all calls have ended."""
        self._target = target
        self._window = window
        self._nonces = iter(range(calls)) if calls is not None else itertools.count()
        self._lock = threading.Lock()
        self._in_flight: dict[str, Any] = {}
        self._stopping = False
        self._running = connections
        self._threads = [threading.Thread(target=self._run, name=f"caller-{n}") for n in range(connections)]

    @property
    def ended(self) -> int:
        """The number of calls that have ended, with or without an error."""
        return len(self.answers) + len(self.failures)

    def wait_ended(self, calls: int) -> None:
        """Wait until so many calls have ended."""
        wait_until(lambda: self.ended >= calls, lambda: f"{calls} calls; {self.ended} have ended")

    def stop(self) -> None:
        """Make no more calls, and cancel those under way."""
        with self._lock:
            self._stopping = True
            left = list(self._in_flight.values())
        for call in left:
            call.cancel()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.stop()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        window: deque[tuple[str, Any]] = deque()
        with grpc.insecure_channel(self._target, options=_CHANNEL_OPTIONS) as channel:
            method = channel.unary_unary(METHOD)
            while (started := self._start(method)) is not None:
                window.append(started)
                if len(window) == self._window:
                    self._finish(*window.popleft())
            for call in window:
                self._finish(*call)
        with self._lock:
            self._running -= 1
            if not self._running:
                self.done.set()

    def _start(self, method: Any) -> tuple[str, Any] | None:
        with self._lock:
            number = None if self._stopping else next(self._nonces, None)
            if number is None:
                return None
            nonce = f"n{number}"
            call = method.future(_request(nonce), timeout=CALL_PATIENCE, wait_for_ready=True)
            self._in_flight[nonce] = call
        return nonce, call

    def _finish(self, nonce: str, call: Any) -> None:
        outcome = _outcome(call)
        with self._lock:
            del self._in_flight[nonce]
            if isinstance(outcome, Failure):
                self.failures[nonce] = outcome
            else:
                self.answers[nonce] = Object.FromString(outcome).request.set_headers["Nonce"]


class Journal:
    """The lines that the hook wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the broker and its workers."""
        return {"CHAOS_JOURNAL": str(self.path)}

    def runs(self) -> Counter[str]:
        """Count the hook's runs by nonce."""
        lines = self.path.read_text().splitlines()
        return Counter(line.split()[1] for line in lines if line.endswith(" whole"))


def _request(nonce: str) -> bytes:
    call = CallDescription("recorded", bundle="chaos", headers=[("Nonce", nonce)])
    return build_object(call).SerializeToString()


def _outcome(call: Any) -> bytes | Failure:
    try:
        answer: bytes = call.result()
    except grpc.FutureCancelledError:
        return Failure("CANCELLED", "given up by the test")
    except grpc.RpcError as error:
        status: Any = error
        return Failure(status.code().name, status.details())
    return answer
