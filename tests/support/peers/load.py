"""Callers that keep a broker busy and check every call: each ends once, with its own answer or an error."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from tests.support.broker import PATIENCE, wait_until
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import CallDescription, build_object

METHOD = "/coprocess.Dispatcher/Dispatch"
PAUSE = 0.003
"""Seconds between two calls of a caller: brokers and other tests share the machine."""


class Client(Protocol):
    """One caller's connection to the broker."""

    def call(self, method: str, payload: bytes, timeout: float | None = None) -> bytes:
        """Make one call. Raises GrpcCallError, or OSError where the connection breaks."""


class Load:
    """Threads with a connection each, which call a hook that echoes the header `Nonce` until the end of the block."""

    def __init__(
        self,
        address: str,
        hook: str,
        bundle: str,
        callers: int = 4,
        header: str = "X-Worker",
        connect: Callable[[str], AbstractContextManager[Client]] = GrpcClient,
    ) -> None:
        self.calls = 0
        self.ok = 0
        self.errors: list[str] = []
        self.crossed: list[str] = []
        """Answers that belonged to another call."""
        self.seen: Counter[str] = Counter()
        """Values of one header of the answers, which says who answered."""
        self._address, self._connect = address, connect
        self._header = header
        self._hook, self._bundle = hook, bundle
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(callers)]

    def wait_for_more(self, calls: int) -> None:
        """Wait until so many more calls have ended."""
        target = self.ended + calls
        wait_until(lambda: self.ended >= target, lambda: f"{target} calls; {self}")

    @property
    def ended(self) -> int:
        """The number of calls that have ended, with or without an error."""
        with self._lock:
            return self.ok + len(self.errors) + len(self.crossed)

    def check(self) -> None:
        """After the block: every call ended exactly once, and none with another's answer."""
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.calls == self.ok + len(self.errors), str(self)
        assert not self.crossed

    def __str__(self) -> str:
        return f"{self.calls} calls, {self.ok} ok, errors: {Counter(self.errors).most_common(5)}, {self.crossed[:3]}"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE * 2)

    def _run(self, caller: int) -> None:
        for connection in itertools.count():
            if self._stop.is_set():
                return
            try:
                with self._connect(self._address) as client:
                    self._call_until_the_end(client, f"{caller}.{connection}")
            except OSError as error:
                self._end(None, "", f"connection: {error}")

    def _call_until_the_end(self, client: Client, name: str) -> None:
        for number in itertools.count():
            if self._stop.wait(PAUSE):
                return
            nonce = f"{name}.{number}"
            with self._lock:
                self.calls += 1
            obj = build_object(CallDescription(self._hook, bundle=self._bundle, headers=[("Nonce", nonce)]))
            try:
                answer = Object.FromString(client.call(METHOD, obj.SerializeToString(), timeout=PATIENCE))
            except GrpcCallError as error:
                self._end(None, nonce, f"{error.code.name}: {error.message}")
            else:
                self._end(answer, nonce, None)

    def _end(self, answer: Object | None, nonce: str, error: str | None) -> None:
        with self._lock:
            if answer is None:
                self.errors.append(error or "?")
                return
            headers = answer.request.set_headers
            if headers["Nonce"] != nonce:
                self.crossed.append(f"{nonce} got {headers['Nonce']}")
                return
            self.ok += 1
            self.seen[headers[self._header]] += 1
