"""The broker that is measured, and one of our own for the time of a run."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from tykpy.bench.bound import spawn
from tykpy.bench.errors import BenchError, ProcessGoneError
from tykpy.bench.measure import broker_and_workers
from tykpy.broker.config import AUTO
from tykpy.broker.errors import RpcError
from tykpy.client.dialing import ClientTls
from tykpy.client.rpc import RpcClient

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
"""More than the broker's own --grace."""
STATUS_SECONDS: Final = 1.0
POLL_SECONDS: Final = 0.2
LOG_TAIL: Final = 2000
"""Characters of the broker's log that an error shows."""
MIN_MAX_STREAMS: Final = 1000
ADMIN_SOCKET: Final = "admin.sock"
"""In a broker's runtime folder."""


class Server(Protocol):
    """What is measured."""

    address: str
    workers: int
    threads: int
    tls: ClientTls | None

    def pids(self) -> list[int] | None:
        """The broker's process and those of its workers; None where they cannot be seen from here."""

    def waiting(self) -> int | None:
        """Dispatches that wait for a worker; None where the broker cannot be asked."""


def status_of(runtime: Path) -> dict[str, Any] | None:
    """What `tykpy status` shows of the broker with this runtime folder; None: it is not there, or too busy."""
    try:
        with RpcClient(runtime / ADMIN_SOCKET, STATUS_SECONDS) as client:
            status: dict[str, Any] = client.call("status")
    except RpcError:
        return None
    return status


class OwnBroker:
    """`tykpy broker` in a folder of its own; everything is gone on leaving. Raises BenchError on entering."""

    def __init__(
        self, bundles: Iterable[Path], workers: int, threads: int, streams: int, options: Sequence[str] = ()
    ) -> None:
        """`threads` 0: auto."""
        self.workers = workers
        self.threads = threads
        self.tls: ClientTls | None = None
        self._bundles = list(bundles)
        self._options = options
        self._streams = max(streams, MIN_MAX_STREAMS)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # A Unix socket's path is limited to 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="tykpy-bench-"))
        self.address = f"unix://{self._folder}/tyk.sock"
        try:
            self._start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def pids(self) -> list[int]:
        """The broker and its workers."""
        assert self._process is not None
        try:
            return broker_and_workers(self._process.pid)
        except ProcessGoneError as error:
            raise BenchError(f"the broker has ended; its log:\n{self._log_tail()}") from error

    def waiting(self) -> int | None:
        """What `tykpy status` calls waiting."""
        status = status_of(self._folder)
        return None if status is None else int(status["waiting"])

    def _start(self) -> None:
        self._copy_bundles()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(self._folder / "notify"))
            notify.settimeout(POLL_SECONDS)
            with (self._folder / "log").open("wb") as log:
                self._process = spawn(
                    "tykpy", *self._arguments(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env={**os.environ, "NOTIFY_SOCKET": str(self._folder / "notify")},
                )  # fmt: skip
            self._wait_until_ready(notify)

    def _arguments(self) -> list[str]:
        return [
            "broker",
            "--workers", str(self.workers), "--threads", str(self.threads or AUTO), "--max-streams", str(self._streams),
            "--bundles", str(self._folder / "bundles"), "--runtime-dir", str(self._folder), "--listen", self.address,
            *self._options,
        ]  # fmt: skip

    def _copy_bundles(self) -> None:
        (self._folder / "bundles").mkdir()
        for source in self._bundles:
            target = self._folder / "bundles" / source.resolve().name
            if target.exists():
                continue
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy(source, target)

    def _wait_until_ready(self, notify: socket.socket) -> None:
        deadline = time.monotonic() + START_SECONDS
        wanted = f"{self.workers} of {self.workers} workers ready"
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchError(f"the broker did not start; its log:\n{self._log_tail()}")
            with contextlib.suppress(TimeoutError):
                if wanted in notify.recv(4096).decode("utf-8", "replace"):
                    return
        raise BenchError(f"no {wanted} within {START_SECONDS:.0f} s; the broker's log:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-LOG_TAIL:]

    def _leave(self) -> None:
        try:
            if self._process is not None:
                self._stop(self._process)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        # Workers end with their broker, also when it is killed.
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
