"""What answers a gateway's hooks: the rows of the table."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.gateway.columns import COLUMNS, EMBEDDED_DRIVER, HookColumn
from benchmarks.gateway.programs import go_program
from benchmarks.programs import Program
from tykpy.bench.errors import ServerError


class Plugin(NamedTuple):
    """One way to run hooks."""

    key: str
    title: str
    driver: str
    """What manifests say; no bundles where it is empty."""
    command: Callable[[Path, Path], list[str]] | None
    """Makes the server's command line of its socket and the folder of bundles; None: the gateway needs no server."""
    columns: tuple[HookColumn, ...]
    runs_hooks: bool = True
    only_tyk: bool = False
    """It is part of the Tyk Gateway."""

    def server(self, folder: Path) -> Program | None:
        """The server, not started yet; its socket is `folder / "plugin.sock"`."""
        if self.command is None:
            return None
        path = folder / SOCKET
        command = self.command(path, folder / "bundles")
        return Program(self.title, command, folder / "plugin.log", lambda: _connect(path))


SOCKET: Final = "plugin.sock"


def _floor(path: Path, bundles: Path) -> list[str]:
    return [go_program("benchmark"), "floor", str(path)]


def _grpcio(path: Path, bundles: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.servers.grpc_hooks", f"unix:{path}"]


def _tykpy(path: Path, bundles: Path) -> list[str]:
    runtime = path.parent / "runtime"
    return [
        sys.executable, "-P", "-m", "tykpy", "broker", "--bundles", str(bundles), "--listen", f"unix://{path}",
        "--runtime-dir", str(runtime),
    ]  # fmt: skip


def _connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            raise ServerError(f"{path}: {error}") from error


_UNREAD: Final = tuple(column for column in COLUMNS if not column.costs)
_EMBEDDED: Final = tuple(column for column in COLUMNS if column.hooks != ("*",))

PLUGINS: Final = (
    Plugin("none", "no plugin", "", None, COLUMNS[:1], runs_hooks=False),
    Plugin("floor", "floor", "grpc", _floor, _UNREAD, runs_hooks=False),
    Plugin("grpcio", "grpcio, 10 threads", "grpc", _grpcio, COLUMNS),
    Plugin("tykpy", "tykpy", "grpc", _tykpy, COLUMNS),
    Plugin("embedded", "embedded Python", EMBEDDED_DRIVER, None, _EMBEDDED, only_tyk=True),
)
