"""Who is compared: the servers a Tyk user could run today, and this broker with more and more workers."""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.errors import ServerError
from benchmarks.objects import BUNDLE_NAME
from benchmarks.running import RunningServer

SYNC: Final = "grpcio sync"
AIO: Final = "grpc.aio"
PROCESSES: Final = "grpcio + processes"
EMBEDDED: Final = "embedded model"
BUNDLE: Final = Path(__file__).parent / "bundle"


def broker_name(workers: int) -> str:
    """What the broker with so many workers is called in the tables."""
    return f"tykpy, {workers} worker{'s' if workers > 1 else ''}"


def contenders(folder: Path, worker_counts: Iterable[int]) -> list[RunningServer]:
    """All servers, not started yet; their sockets and whatever they write are in `folder`."""
    return [
        grpc_server(folder, SYNC, "grpc_sync"),
        grpc_server(folder, AIO, "grpc_aio"),
        grpc_server(folder, PROCESSES, "grpc_processes", str(os.cpu_count() or 1)),
        *(broker(folder, workers) for workers in worker_counts),
    ]


def grpc_server(folder: Path, name: str, module: str, *arguments: str) -> RunningServer:
    """One of the modules in `benchmarks/servers`, not started yet."""
    socket = folder / f"{module}.sock"
    command = [sys.executable, "-m", f"benchmarks.servers.{module}", f"unix:{socket}", *arguments]
    return RunningServer(name, command, socket)


def broker(folder: Path, workers: int) -> RunningServer:
    """A broker with the hook's bundle, not started yet."""
    socket = folder / f"tykpy{workers}.sock"
    rpc_socket = folder / f"tykpy{workers}.rpc.sock"
    runtime = folder / f"runtime{workers}"
    bundles = folder / "bundles"
    shutil.copytree(BUNDLE, bundles / BUNDLE_NAME, dirs_exist_ok=True)
    command = [
        console_script(), "broker", "--workers", str(workers), "--bundles", str(bundles),
        "--listen", f"unix://{socket}", "--listen", f"msgpack+unix://{rpc_socket}", "--runtime-dir", str(runtime),
    ]  # fmt: skip
    return RunningServer(broker_name(workers), command, socket, rpc_socket)


def console_script() -> str:
    beside = Path(sys.executable).with_name("tykpy")
    found = str(beside) if beside.exists() else shutil.which("tykpy")
    if found is None:
        raise ServerError("the tykpy command is not installed: pip install -e .")
    return found
