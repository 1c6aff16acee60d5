"""Another gateway's connection that works while something bad happens: all of its calls must succeed."""

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.support.broker import RunningBroker, wait_until
from tests.support.peers.load import PAUSE
from tykpy.client.grpc import GrpcClient
from tykpy.commands.objects import CallDescription, build_object


class Neighbour:
    """Calls a hook one call after the other until the end of the block, which fails if a call did."""

    def __init__(self, broker: RunningBroker, hook: str = "add_header", bundle: str = "hooks") -> None:
        self._address = broker.address
        self._object = build_object(CallDescription(hook, bundle=bundle)).SerializeToString()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="neighbour")
        self.answered = 0
        self.failures: list[Exception] = []

    def wait_answered(self, more: int = 5) -> None:
        """Wait until so many more calls were answered."""
        wanted = self.answered + more
        wait_until(lambda: self.answered >= wanted or bool(self.failures), lambda: f"{self.answered} answers")
        assert self.failures == []

    def _run(self) -> None:
        try:
            with GrpcClient(self._address) as client:
                while not self._stop.wait(PAUSE):
                    client.call("/coprocess.Dispatcher/Dispatch", self._object, timeout=30)
                    self.answered += 1
        except Exception as error:  # noqa: BLE001 (of another thread: the test raises it)
            self.failures.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_answered()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            assert self.failures == []


class Footprint:
    """The descriptors and memory of a broker's process."""

    def __init__(self, broker: RunningBroker) -> None:
        self._process = psutil.Process(broker.pid)
        # Forget the highest peak so far; a kernel that cannot only makes `peak_grown` larger.
        with contextlib.suppress(OSError):
            Path(f"/proc/{broker.pid}/clear_refs").write_text("5")
        self._descriptors = self._process.num_fds()
        self._memory = self._memory_now()

    def peak_grown(self) -> int:
        """The peak growth of resident memory, in bytes."""
        with open(f"/proc/{self._process.pid}/status") as status:
            peak = next(line for line in status if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 - self._memory

    def grown(self) -> int:
        """The growth of resident memory, in bytes."""
        return self._memory_now() - self._memory

    def descriptors_grown(self) -> int:
        """The growth of the number of descriptors."""
        return int(self._process.num_fds() - self._descriptors)

    def _memory_now(self) -> int:
        return int(self._process.memory_info().rss)

    def check_back(self, most: int) -> None:
        """Check that all descriptors are released, and all memory but `most` bytes of the allocator's."""
        wait_until(
            lambda: self.descriptors_grown() <= 0,
            lambda: f"{self.descriptors_grown()} descriptors more than before",
        )
        wait_until(lambda: self.grown() <= most, lambda: f"{self.grown()} bytes more than before")
