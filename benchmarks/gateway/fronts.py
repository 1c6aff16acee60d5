"""The gateways that a benchmark sends HTTP requests to: the one of tests/gateway, and a Tyk Gateway."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from benchmarks.gateway.columns import HookColumn
from benchmarks.gateway.programs import go_program
from benchmarks.programs import Program
from tests.support.gateway.gateway import RunningGateway
from tests.support.peers.redis_server import free_port, redis_binary, running_redis
from tykpy.bench.errors import ServerError

ORG: Final = "bench"
MESSAGE_BYTES: Final = 104_857_600
"""Limit on messages in both directions, as documented for `tyk.conf`."""


class Setup(NamedTuple):
    """One gateway that is to run."""

    folder: Path
    """Its middleware path: bundles are unpacked below it."""
    address: str
    """The plugin server's."""
    upstream: str
    columns: Sequence[HookColumn]
    """An API for each."""
    bundles: bool
    """The APIs have bundles."""


class Front(NamedTuple):
    """A gateway that runs."""

    url: str
    """In front of an API's path."""
    pid: int


Gateway: TypeAlias = Callable[[Setup], AbstractContextManager[Front]]


@contextmanager
def harness(setup: Setup) -> Iterator[Front]:
    """Run the gateway of tests/gateway."""
    go_program("gateway")
    apis = [
        {
            "api_id": column.key,
            "org_id": ORG,
            "use_keyless": True,
            "listen_path": f"/{column.key}/",
            "target_url": f"http://{setup.upstream}",
            "custom_middleware_bundle": column.bundle if setup.bundles else "",
        }
        for column in setup.columns
    ]
    with RunningGateway(setup.folder, setup.address, apis=apis, no_tracing=True, no_log=True) as gateway:
        yield Front(f"http://{gateway.public}", gateway.pid)


def tyk(binary: Path) -> Gateway:
    """Make a starter of this Tyk Gateway; its Python files are looked for in its folder.

    Raises ServerError where the binary or a Redis for it is missing.
    """
    if not os.access(binary, os.X_OK):
        raise ServerError(f"TYK={binary}: no such program")
    try:
        redis_binary()
    except FileNotFoundError as error:
        raise ServerError(f"a Tyk Gateway needs Redis: {error}") from error

    @contextmanager
    def start(setup: Setup) -> Iterator[Front]:
        redis_folder = setup.folder / "redis"
        redis_folder.mkdir()
        with running_redis(redis_folder) as redis:
            port = free_port()
            config = _write_tyk_files(setup, _tyk_config(binary.parent, setup, port, redis.socket))
            command = [str(binary), "--conf", str(config)]
            with Program("Tyk Gateway", command, setup.folder / "tyk.log", lambda: None) as program:
                yield Front(f"http://127.0.0.1:{port}", program.pids()[0])

    return start


def _write_tyk_files(setup: Setup, config: dict[str, Any]) -> Path:
    """Write what a Tyk Gateway reads, and return the path of its configuration."""
    files: dict[str, Any] = {f"apps/{column.key}.json": _tyk_api(setup, column) for column in setup.columns}
    files |= {"templates/error.json": {"error": "{{.Message}}"}, "tyk.conf": config}
    for name, content in files.items():
        path = setup.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return path


def _tyk_config(home: Path, setup: Setup, port: int, redis_socket: Path) -> dict[str, Any]:
    return {
        "listen_address": "127.0.0.1",
        "listen_port": port,
        "secret": "bench",
        "node_secret": "bench",
        "template_path": str(setup.folder / "templates"),
        "pid_file_location": str(setup.folder / "tyk.pid"),
        "app_path": str(setup.folder / "apps"),
        "middleware_path": str(setup.folder),
        "storage": {"type": "redis", "addrs": [str(redis_socket)]},
        "enable_analytics": False,
        "enable_bundle_downloader": True,
        "bundle_base_url": "http://127.0.0.1:9/",  # all bundles are unpacked already
        "max_idle_connections_per_host": 500,
        "log_level": "warn",
        "coprocess_options": {
            "enable_coprocess": True,
            "coprocess_grpc_server": setup.address,
            "grpc_recv_max_size": MESSAGE_BYTES,
            "grpc_send_max_size": MESSAGE_BYTES,
            "python_path_prefix": str(home),
        },
    }


def _tyk_api(setup: Setup, column: HookColumn) -> dict[str, Any]:
    return {
        "name": column.key,
        "slug": column.key,
        "api_id": column.key,
        "org_id": ORG,
        "use_keyless": True,
        "active": True,
        "do_not_track": True,
        "disable_rate_limit": True,
        "disable_quota": True,
        "version_data": {"not_versioned": True, "versions": {"Default": {"name": "Default"}}},
        "proxy": {
            "listen_path": f"/{column.key}/",
            "target_url": f"http://{setup.upstream}",
            "strip_listen_path": True,
        },
        "custom_middleware_bundle": column.bundle if setup.bundles else "",
    }
