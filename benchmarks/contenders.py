"""The servers that a Tyk user could run today, and this broker."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks.driving import ask
from benchmarks.objects import answers, typical_post
from benchmarks.programs import Program
from tykpy.bench.serving import OwnBroker

SYNC: Final = "grpcio sync"
AIO: Final = "grpc.aio"
PROCESSES: Final = "grpcio + processes"
BUNDLE: Final = Path(__file__).parent / "bundle"
RPC_SOCKET: Final = "rpc.sock"


class GrpcioServer(Program):
    """One of the modules in `benchmarks.servers`, on a socket in `folder`."""

    def __init__(self, folder: Path, name: str, module: str, *arguments: str) -> None:
        self.address = f"unix://{folder}/{module}.sock"
        command = [sys.executable, "-m", f"benchmarks.servers.{module}", f"unix:{folder}/{module}.sock", *arguments]
        item = typical_post()
        super().__init__(name, command, folder / f"{module}.log", lambda: ask(self.address, item, answers(item)))


class HookBroker(OwnBroker):
    """A broker with the bundle of the comparison's hook, which listens for MessagePack-RPC as well."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.rpc_socket = folder / f"rpc{workers}.sock"
        listen = ("--listen", f"msgpack+unix://{self.rpc_socket}")
        super().__init__([BUNDLE], workers, 0, 0, listen)


Contender: TypeAlias = GrpcioServer | HookBroker


def broker_name(workers: int) -> str:
    """Return the name of a broker with so many workers in tables."""
    return f"tykpy, {workers} worker{'s' if workers > 1 else ''}"


def sync_and_broker(folder: Path, workers: int) -> dict[str, Contender]:
    """Return grpcio's synchronous server and a broker, by name, not started yet."""
    return {SYNC: GrpcioServer(folder, SYNC, "grpc_sync"), broker_name(workers): HookBroker(folder, workers)}


def contenders(folder: Path, worker_counts: Iterable[int]) -> dict[str, Contender]:
    """Return all servers by name, not started yet; their sockets and files are in `folder`."""
    others = (
        GrpcioServer(folder, AIO, "grpc_aio"),
        GrpcioServer(folder, PROCESSES, "grpc_processes", str(os.cpu_count())),
    )
    brokers = {broker_name(workers): HookBroker(folder, workers) for workers in worker_counts}
    sync = GrpcioServer(folder, SYNC, "grpc_sync")
    return {SYNC: sync, **{other.name: other for other in others}, **brokers}
