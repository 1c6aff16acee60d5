"""Programs that are measured beside a broker: servers, a gateway, an upstream."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import psutil

from tykpy.bench.errors import ProcessGoneError, ServerError
from tykpy.bench.measure import family

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
RETRY_SECONDS: Final = 0.01
LOG_TAIL: Final = 2000
"""Bytes of a program's output that an error shows."""


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
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
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
            return family(self._process.pid)
        except ProcessGoneError as error:
            raise ServerError(f"{self.name} has ended; its log:\n{self.output}") from error

    @property
    def output(self) -> str:
        """The end of what it wrote to standard output and standard error."""
        return self._log.read_bytes()[-LOG_TAIL:].decode(errors="replace")

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
