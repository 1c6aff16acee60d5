"""A broker for one purpose: with bundles and a runtime folder of its own, which ends with its user."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, Self

from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.commands.bound import spawn
from tykpy.commands.errors import CommandError

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
"""Longer than the broker's own --grace."""


class PrivateBroker:
    """`tykpy broker` with copies of bundles. It takes calls from `start` to `stop`, or within a `with` block."""

    def __init__(
        self,
        bundles: Iterable[Path],
        workers: int,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`bundles`: each a bundle or a folder of bundles; `environment`: variables besides those of this process.

        Raises CommandError if one is not there.
        """
        self.workers = workers
        self._bundles = [path.resolve() for path in bundles]
        self._options = options
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        for path in self._bundles:
            if not path.exists():
                raise CommandError(f"{path}: no such bundle; name a folder, a ZIP or a .py file")

    @property
    def address(self) -> str:
        """Where it takes gRPC calls."""
        return f"unix://{self.folder}/tyk.sock"

    @property
    def bundles(self) -> Path:
        """The folder with its copies of the bundles."""
        return self.folder / "bundles"

    @property
    def output(self) -> str:
        """What it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until all workers are ready. Raises CommandError with its log."""
        # Short, because the path of a Unix socket is limited to 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="tykpy-"))
        try:
            self._copy()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.bind(str(self.folder / "notify"))
                self._spawn()
                self._wait_until_ready(notify)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, and remove its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _copy(self) -> None:
        self.bundles.mkdir()
        for source in self._bundles:
            is_bundle = source.is_file() or (source / MANIFEST_NAME).exists()
            target = self.bundles / source.name if is_bundle else self.bundles
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)

    def _spawn(self) -> None:
        environment = {**os.environ, **self._environment, "NOTIFY_SOCKET": str(self.folder / "notify")}
        with (self.folder / "log").open("wb") as log:
            self._process = spawn(
                "tykpy.cli", "broker", "--workers", str(self.workers), "--bundles", str(self.bundles),
                "--runtime-dir", str(self.folder), "--listen", self.address, *self._options,
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _wait_until_ready(self, notify: socket.socket) -> None:
        assert self._process is not None
        wanted = f"{self.workers} of {self.workers} workers ready"
        deadline = monotonic() + START_SECONDS
        notify.settimeout(0.1)
        while self._process.poll() is None and monotonic() < deadline:
            try:
                if wanted in notify.recv(4096).decode(errors="replace"):
                    return
            except TimeoutError:
                continue
        raise CommandError(f"the broker did not start: no {wanted}; its log:\n{self.output}")
