"""What is measured: programs that a benchmark starts, above all a broker of its own, and brokers that run already."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import psutil

from tykpy.bench.errors import ProcessGoneError, ServerError
from tykpy.bench.load import connect
from tykpy.bench.measure import broker_and_workers, family
from tykpy.broker.config import AUTO
from tykpy.broker.net.addresses import parse_unix
from tykpy.broker.net.port_owner import tcp_listener, unix_listener
from tykpy.client.dialing import ClientTls
from tykpy.commands.bound import spawn
from tykpy.commands.errors import CommandError
from tykpy.commands.pool import ask_broker

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
"""Longer than the broker's own --grace."""
RETRY_SECONDS: Final = 0.01
STATUS_SECONDS: Final = 1.0
LOG_TAIL: Final = 2000
"""Bytes of a program's output that an error shows."""
MIN_MAX_STREAMS: Final = 1000


class Program:
    """A program: started on entering, and ready from then on; ended with all its children on leaving.

    `check` raises ServerError until the program is ready.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, check: Callable[[], object]) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._check = check

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = self._spawn(stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def pids(self) -> list[int]:
        """Return the program's processes, the one that was started first; raises ServerError if it has ended."""
        try:
            return self._family()
        except ProcessGoneError as error:
            raise ServerError(f"{self.name} has ended; its log:\n{self.output}") from error

    @property
    def output(self) -> str:
        """The end of what it wrote to standard output and standard error."""
        return self._log.read_bytes()[-LOG_TAIL:].decode(errors="replace")

    def _spawn(self, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, **options)

    def _family(self) -> list[int]:
        return family(self._process.pid)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} did not start; its log:\n{self.output}")
            try:
                self._check()
                return
            except ServerError as error:
                if time.monotonic() > deadline:
                    raise ServerError(f"{error}; the log of {self.name}:\n{self.output}") from error
                time.sleep(RETRY_SECONDS)

    def _stop(self) -> None:
        children = []
        if self._process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, alive = psutil.wait_procs(children, STOP_SECONDS)
        for child in alive:
            print(f"{self.name}: process {child.pid} outlived it and is killed", file=sys.stderr)
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


class OwnBroker(Program):
    """`tykpy broker` with a runtime folder of its own, which is removed on leaving. `threads` 0 means auto."""

    def __init__(
        self,
        bundles: Iterable[Path],
        workers: int,
        threads: int,
        streams: int,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment`: variables besides those of this process."""
        self.workers = workers
        self.threads = threads
        self.tls: ClientTls | None = None
        self.address = ""
        self._bundles = list(bundles)
        self._options = options
        self._environment = environment or {}
        self._streams = max(streams, MIN_MAX_STREAMS)

    def __enter__(self) -> Self:
        # Short, because the path of a Unix socket is limited to 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="tykpy-bench-"))
        self.address = f"unix://{self.folder}/tyk.sock"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.bind(str(self.folder / "notify"))
                notify.setblocking(False)
                super().__init__("the broker", self._arguments(), self.folder / "log", lambda: self._ready(notify))
                self._copy_bundles()
                return super().__enter__()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def waiting(self) -> int | None:
        """Return how many dispatches wait for a worker; None if the broker is too busy to say."""
        return _waiting(self.folder, self._process.pid)

    def _arguments(self) -> list[str]:
        return [
            "broker",
            "--workers", str(self.workers), "--threads", str(self.threads or AUTO), "--max-streams", str(self._streams),
            "--bundles", str(self.folder / "bundles"), "--runtime-dir", str(self.folder), "--listen", self.address,
            *self._options,
        ]  # fmt: skip

    def _copy_bundles(self) -> None:
        (self.folder / "bundles").mkdir()
        for source in self._bundles:
            target = self.folder / "bundles" / source.resolve().name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)

    def _spawn(self, **options: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self._environment, "NOTIFY_SOCKET": str(self.folder / "notify")}
        return spawn("tykpy.cli", *self._command, env=environment, **options)

    def _family(self) -> list[int]:
        return broker_and_workers(self._process.pid)

    def _ready(self, notify: socket.socket) -> None:
        wanted = f"{self.workers} of {self.workers} workers ready"
        with contextlib.suppress(BlockingIOError):
            while wanted not in notify.recv(4096).decode("utf-8", "replace"):
                pass
            return
        raise ServerError(f"no {wanted} within {START_SECONDS:.0f} s")

    def _stop(self) -> None:
        try:
            super()._stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class ConnectedBroker:
    """A broker that others have started; one on another machine is measured by its answers alone.

    Its admin socket is looked for beside its Unix socket and in `runtime`. Raises BenchError if nobody answers.
    """

    def __init__(self, address: str, tls: ClientTls | None = None, runtime: Path | None = None) -> None:
        self.address = address
        self.tls = tls
        self.threads = 0
        self._pid = _listener(address, tls)
        self.workers = max(0, len(self.pids() or ()) - 1)
        beside = [parse_unix(address).parent] if address.startswith("unix:") else []
        self._runtimes = [*beside, *([runtime] if runtime else [])]

    def pids(self) -> list[int] | None:
        """Return the broker and its workers; None if they are not visible on this machine."""
        if not self._pid:
            return None
        try:
            return broker_and_workers(self._pid)
        except ProcessGoneError:
            return None

    def waiting(self) -> int | None:
        """Return how many dispatches wait for a worker; None if no admin socket of this very broker is found."""
        found = (_waiting(runtime, self._pid) for runtime in self._runtimes)
        return next((waiting for waiting in found if waiting is not None), None)


MeasuredBroker = OwnBroker | ConnectedBroker


def _waiting(runtime: Path, pid: int) -> int | None:
    """Return how many dispatches wait in this broker; None if it is not there, or too busy to say."""
    try:
        status = ask_broker(runtime, "status", timeout=STATUS_SECONDS)
    except CommandError:
        return None
    return int(status["waiting"]) if status["pid"] == pid else None


def _listener(address: str, tls: ClientTls | None) -> int:
    """Return the process that accepts our connections, 0 if it cannot be seen from here; raises BenchError."""
    with connect(address, tls).socket as sock:
        if sock.family == socket.AF_UNIX:
            return unix_listener(sock)
        here, there = sock.getsockname(), sock.getpeername()
        return tcp_listener(there[1]) if here[0] == there[0] else 0
