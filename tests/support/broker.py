"""A real broker, started through the console script, for tests of any kind."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.peers.rpc_client import PipelinedRpcClient
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.client.grpc import GrpcClient
from tykpy.commands.objects import CallDescription, build_object
from tykpy.telemetry.live_segment import LiveSegment

TYKPY = str(Path(sys.executable).parent / "tykpy")
PATIENCE = 30.0
"""Seconds until a wait on a condition fails; no test asserts that something is faster."""


class RunningBroker:
    """`tykpy broker` as a context: ready when entered (as sd_notify reports), stopped at the end."""

    def __init__(self, folder: Path, *flags: str, workers: int = 1, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.workers = workers
        # A Unix socket's path is limited to 107 bytes, and a test's own folder may be longer.
        self.runtime = Path(tempfile.mkdtemp(prefix="tykpy-"))
        self.log_path = self.runtime / "broker.log"
        self.socket = self.runtime / "tyk.sock"
        self.bundles = folder / "bundles"
        self.bundles.mkdir(exist_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.runtime / "notify"))
        self._notify.settimeout(PATIENCE)
        self._flags = ["--workers", str(workers), "--bundles", str(self.bundles), *flags]
        self._env = env or {}
        self._waits = True
        self.prefix: list[str] = []
        """Prefix of its command, e.g. a program that starts it in another way."""
        self.inherits: tuple[int, ...] = ()
        """Descriptors that it inherits."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The address that a gateway dials."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> str:
        """Everything logged so far by the broker and its workers."""
        return self.log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The broker's process."""
        assert self.process is not None
        return self.process.pid

    def add_file(self, name: str, text: str) -> Path:
        """Put a file into the folder of bundles, e.g. `mine.py` or `mine/middleware.py`."""
        path = self.bundles / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def add_flags(self, *flags: str) -> None:
        """Add flags for the next start, e.g. with paths of its runtime folder."""
        self._flags += flags

    def start(self) -> Self:
        """Start it without waiting."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, TYKPY, "broker", "--runtime-dir", str(self.runtime), *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.inherits,
                # What waits for a test that holds hooks at a gate is no overload.
                env={
                    **os.environ,
                    "TYKPY_QUEUE_WAIT": "0",
                    "TYKPY_SLOW_HOOK": "0",
                    # Tests read the log as people do.
                    "TYKPY_LOG_FORMAT": "console",
                    "NOTIFY_SOCKET": str(self.runtime / "notify"),
                    **self._env,
                },
            )
        return self

    def wait_for_status(self, condition: Callable[[str], bool]) -> str:
        """Wait for a matching message to the service manager."""
        while True:
            try:
                message = self._notify.recv(4096).decode()
            except TimeoutError:
                raise AssertionError(f"the broker did not say so in {PATIENCE} s; its log:\n{self.log}") from None
            if condition(message):
                return message

    def forget_status(self) -> None:
        """Drop messages of the previous broker before the next one starts."""
        self._notify.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._notify.recv(4096)
        self._notify.settimeout(PATIENCE)

    def wait_ready(self) -> Self:
        """Wait until all workers are ready."""
        self.wait_for_status(lambda text: f"{self.workers} of {self.workers} workers ready" in text)
        return self

    def wait(self) -> int:
        """Wait for the end; returns the exit code."""
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        """Stop it as a service manager would; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def admin(self) -> PipelinedRpcClient:
        """A client of the admin socket, which lies beside the gateway's."""
        return PipelinedRpcClient(str(self.socket.parent / "admin.sock"))

    def status(self) -> dict[str, Any]:
        """Return what `tykpy status` shows."""
        with self.admin() as client:
            status = client.call("status")
        assert isinstance(status, dict)
        return status

    def check_accounts(self) -> None:
        """Wait until no bytes of requests are counted any more."""

        def all_zero() -> bool:
            status = self.status()
            return not (status["held_bytes"] or status["arriving"]["bytes"] or status["under_way"])

        wait_until(all_zero, lambda: str(self.status()))

    def call(self, hook: str, *, timeout: float = PATIENCE, **description: Any) -> Object:
        """Dispatch one hook call and give back the object that came."""
        return self.dispatch(self.object_for(hook, **description), timeout)

    def object_for(self, hook: str, **description: Any) -> Object:
        """Return the object of a hook call."""
        return build_object(CallDescription(hook, **description))

    def dispatch(self, obj: Object, timeout: float = PATIENCE) -> Object:
        """Dispatch an object."""
        with GrpcClient(self.address) as client:
            answer = client.call("/coprocess.Dispatcher/Dispatch", obj.SerializeToString(), timeout=timeout)
        return Object.FromString(answer)

    def send_event(self, event: Event, timeout: float = PATIENCE) -> None:
        """Dispatch an event."""
        with GrpcClient(self.address) as client:
            client.call("/coprocess.Dispatcher/DispatchEvent", event.SerializeToString(), timeout=timeout)

    def wait_for_log(self, text: str) -> None:
        """Wait until the log has this text."""
        wait_until(lambda: text in self.log, lambda: f"{text!r} in the log:\n{self.log}")

    def unready(self, files: dict[str, str] | None = None) -> Self:
        """Do not wait for workers when entered: with these bundles none becomes ready."""
        for name, text in (files or {}).items():
            self.add_file(name, text)
        self._waits = False
        return self

    def __enter__(self) -> Self:
        try:
            self.start()
            return self.wait_ready() if self._waits else self
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process is not None:
                self.stop()
        except subprocess.TimeoutExpired:
            assert self.process is not None
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._notify.close()
            self._remove_files()

    def _remove_files(self) -> None:
        if self.log_path.exists():
            with contextlib.suppress(OSError):
                shutil.copy(self.log_path, self.folder / "broker.log")
        # One that was killed has left its counters to the next.
        LiveSegment.create(self.runtime).close()
        shutil.rmtree(self.runtime)


def stop_process(pid: int) -> None:
    """Send SIGSTOP and wait until it takes effect: a process that waits for a CPU still finishes what it began."""
    os.kill(pid, signal.SIGSTOP)
    process = psutil.Process(pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, lambda: f"process {pid} is {process.status()}")


def wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Poll a condition that nothing announces; fail with `what` if it never holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"did not come true in {PATIENCE} s: {what()}"
        time.sleep(0.005)


@contextlib.contextmanager
def running_broker(folder: Path, *flags: str, workers: int = 1, files: dict[str, str]) -> Iterator[RunningBroker]:
    """Return a broker with these files in its folder of bundles."""
    broker = RunningBroker(folder, *flags, workers=workers)
    for name, text in files.items():
        broker.add_file(name, text)
    with broker:
        yield broker
