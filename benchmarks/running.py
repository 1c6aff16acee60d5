"""Starts the programs of a benchmark, waits until they answer rightly, and ends them again."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc
import psutil

from benchmarks.errors import ServerError
from benchmarks.objects import DISPATCH_PATH, expected_answer, typical_post
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.measure import family

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
CALL_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.05
LOG_TAIL: Final = 2000
"""Bytes of a server's output that an error shows."""

_CHANNEL_OPTIONS: Final = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", -1),
]


class RunningProgram:
    """A program and its children: started on entering, right from then on, ended on leaving."""

    def __init__(self, name: str, command: list[str], log: Path, check: Callable[[], None]) -> None:
        """`log` gets what it prints; `check` raises ServerError until the program is ready."""
        self.name = name
        self._command = command
        self._log = log
        self._check = check

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_right()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pids(self) -> list[int]:
        """Its processes, the one that was started first."""
        return family(self._process.pid)

    @property
    def output(self) -> str:
        """The end of what it printed."""
        return self._log.read_bytes()[-LOG_TAIL:].decode(errors="replace")

    def _wait_until_right(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} ended with {self._process.returncode}\n{self.output}")
            try:
                self._check()
            except ServerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                return

    def _stop(self) -> None:
        pids = self.pids if self._process.poll() is None else []
        children = [psutil.Process(pid) for pid in pids[1:] if psutil.pid_exists(pid)]
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, alive = psutil.wait_procs(children, STOP_SECONDS)
        for child in alive:
            print(f"{self.name}: process {child.pid} outlived it and is killed", file=sys.stderr)
            child.kill()


class RunningServer:
    """A gRPC server that runs the benchmark's hook, and proves it before it is measured."""

    def __init__(self, name: str, command: list[str], socket: Path, rpc_socket: Path | None = None) -> None:
        self.name = name
        self.socket = socket
        """Where it listens for gRPC."""
        self.rpc_socket = rpc_socket
        """Where it listens for MessagePack-RPC, if it does."""
        self._program = RunningProgram(name, command, socket.with_suffix(".out"), self.check)

    def __enter__(self) -> Self:
        self._program.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.__exit__(kind, error, trace)

    @property
    def pids(self) -> list[int]:
        """Its processes, the one that listens first."""
        return self._program.pids

    def check(self, item: Object | None = None) -> None:
        """Make one real gRPC call, with the typical object or this one.

        Raises ServerError unless the answer is right.
        """
        item = item or typical_post()
        try:
            answer = self._call(item)
        except grpc.RpcError as error:
            raise ServerError(f"{self.name}: {error.details()}\n{self._program.output}") from error
        if answer != expected_answer(item):
            raise ServerError(f"{self.name} answered wrongly:\n{str(answer)[:LOG_TAIL]}")

    def _call(self, item: Object) -> Object:
        with grpc.insecure_channel(f"unix:{self.socket}", options=_CHANNEL_OPTIONS) as channel:
            call = channel.unary_unary(
                DISPATCH_PATH, request_serializer=Object.SerializeToString, response_deserializer=Object.FromString
            )
            answer: Object = call(item, timeout=CALL_SECONDS)
            return answer
