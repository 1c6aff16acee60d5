"""Three brokers on machines of their own behind one name, one Redis, and a client that balances over them.

Brokers are killed, drained, added and cut off while calls go on. Every call has an id, which its hook counts in Redis.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import pytest

from tests.support.broker import PATIENCE, RunningBroker, wait_until
from tests.support.gateway.gateway import RunningGateway
from tests.support.machines import Machine, Network
from tests.support.peers.cluster_load import HOOK, NAME, OK, THREADS
from tests.support.peers.redis_server import RedisServer, running
from tests.support.root import ROOT

BROKERS: Final = 3
PORT: Final = 5555
SOURCE: Final = f"""
import os
from tyk.decorators import Pre
from gateway import TykGateway as tyk

@Pre
def {HOOK}(request, session, spec):
    call = request.get_header("Call")
    with open(os.environ["RUNS"], "a") as runs:
        runs.write("\\n" + call + " whole\\n")  # if this process is killed, a part may be written
    tyk.store_data("last", call, 600)
    request.add_header("X-Broker", os.environ["BROKER"])
    return request, session

@Pre
def put(request, session, spec):
    tyk.store_data("shared", request.get_header("Value"), 600)
    return request, session

@Pre
def get(request, session, spec):
    request.add_header("Value", tyk.get_data("shared"))
    return request, session
"""
API: Final = {
    "api_id": "api",
    "org_id": "org",
    "listen_path": "/api/",
    "use_keyless": True,
    "custom_middleware": {"driver": "grpc", "pre": [{"name": HOOK}]},
}


class Result(NamedTuple):
    """What became of one call."""

    call: str
    outcome: str
    broker: str
    """The one that answered."""
    ended: float
    """When, by the monotonic clock."""


class Load:
    """The client: its calls go on until the end of the `with` block."""

    def __init__(self, machine: Machine) -> None:
        self._process = subprocess.Popen(
            [*machine.prefix, sys.executable, "-m", "tests.support.peers.cluster_load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.target = f"dns://127.0.0.1:{self._process.stdout.readline().strip()}/{NAME}:{PORT}"
        self.results: list[Result] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def tell(self, **command: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def wait_for(self, *brokers: "Broker", calls: int = 1) -> None:
        """Wait until each of these brokers has answered some more calls."""
        start = len(self.results)

        def seen() -> Counter[str]:
            return Counter(one.broker for one in self.results[start:] if one.outcome == OK)

        wait_until(lambda: all(seen()[one.name] >= calls for one in brokers), lambda: f"{seen()} {self.failed}")

    def wait_for_others(self, broker: "Broker", calls: int = 50) -> None:
        """Wait until the other brokers have answered some more calls."""
        start = len(self.results)
        wait_until(
            lambda: sum(one.outcome == OK and one.broker != broker.name for one in self.results[start:]) >= calls,
            lambda: f"{len(self.results) - start} calls, {self.failed}",
        )

    @property
    def failed(self) -> list[Result]:
        """The calls that were not answered by a hook."""
        return [one for one in self.results if one.outcome != OK]

    def is_cut_off_from(self, broker: "Broker") -> bool:
        """Return whether the client has sent something to this broker again, for want of an acknowledgement."""
        remote = f"{int.from_bytes(socket.inet_aton(broker.machine.address), 'little'):08X}:{PORT:04X}"
        # gRPC's C core uses IPv6 sockets, also for IPv4 addresses.
        tables = [Path(f"/proc/{self._process.pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
        sockets = [line.split() for table in tables for line in table.splitlines()[1:]]
        return any(fields[2].endswith(remote) and int(fields[6], 16) for fields in sockets)

    def end(self) -> None:
        """Finish the calls that are under way, and stop."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(PATIENCE)
        assert self._process.wait(PATIENCE) == 0

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                call, outcome, broker = line.rstrip("\n").split(" ", 2)
                self.results.append(Result(call, outcome, broker, time.monotonic()))


class Broker(RunningBroker):
    """A broker on a machine of its own."""

    def __init__(self, folder: Path, machine: Machine, redis: str, *flags: str) -> None:
        folder.mkdir()
        self.name = folder.name
        self.machine = machine
        listen = ("--listen", f"tcp://{machine.address}:{PORT}")
        self.runs = folder / "runs"
        """A line for each hook run, with its call."""
        env = {"BROKER": self.name, "RUNS": str(self.runs)}
        super().__init__(folder, *listen, "--redis", redis, *flags, env=env)
        self.add_flags("--listen", self.address)
        self.prefix = machine.prefix
        self.add_file("hooks.py", SOURCE)


class Cluster:
    """The machines, and what runs on them."""

    def __init__(self, stack: ExitStack, folder: Path, *flags: str) -> None:
        self._stack = stack
        self._folder = folder
        self._flags = flags
        self._network = stack.enter_context(Network())
        self._client = self._network.machine()
        self._storage = self._network.machine()
        (folder / "redis").mkdir()
        self.redis = RedisServer(folder / "redis", "--bind", self._storage.address, "--protected-mode", "no", port=6379)
        self.redis.prefix = self._storage.prefix
        stack.enter_context(running(self.redis))
        self._all: list[Broker] = []
        self.brokers = [self.add_broker() for _ in range(BROKERS)]
        self.load = Load(self._client)
        stack.callback(self.load.end)

    def add_broker(self) -> Broker:
        """Start a broker on a new machine; the name does not lead to it yet."""
        machine = self._network.machine()
        url = f"redis://{self._storage.address}:6379"
        name = f"broker-{machine.address.rpartition('.')[2]}"
        broker = Broker(self._folder / name, machine, url, *self._flags)
        self._all.append(broker)
        return self._stack.enter_context(broker)

    def publish(self, *brokers: Broker) -> None:
        """Have the name lead to these brokers."""
        self.load.tell(addresses=[one.machine.address for one in brokers])

    def start_grpc(self) -> None:
        """Call the brokers directly, as a client of gRPC's C core does."""
        self.publish(*self.brokers)
        self.load.tell(grpc=self.load.target)
        self.load.wait_for(*self.brokers)

    def start_http(self) -> None:
        """Call the brokers through a gateway with round robin: grpc-go."""
        self.publish(*self.brokers)
        folder = self._folder / "gateway"
        folder.mkdir()
        gateway = RunningGateway(folder, self.load.target, grpc_round_robin_load_balancing=True, apis=[API])
        gateway.prefix = self._client.prefix
        self._stack.enter_context(gateway)
        self.load.tell(http=f"http://{gateway.public}/api/echo")
        self.load.wait_for(*self.brokers)

    def runs(self) -> Counter[str]:
        """End the calls; return how many hook runs each one has caused."""
        self.load.end()
        lines = [line for broker in self._all if broker.runs.exists() for line in broker.runs.read_text().splitlines()]
        return Counter(line.split()[0] for line in lines if line.endswith(" whole"))


@contextmanager
def running_cluster(folder: Path, *flags: str) -> Iterator[Cluster]:
    """Run a cluster for the time of a `with` block."""
    with ExitStack() as stack:
        yield Cluster(stack, folder, *flags)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Yield three brokers without load."""
    with running_cluster(tmp_path) as cluster:
        yield cluster


def restart(cluster: Cluster, broker: Broker) -> None:
    """Bring a broker back that has ended; return when it gets calls again."""
    broker.forget_status()
    broker.start().wait_ready()
    cluster.load.wait_for(*cluster.brokers)


def check_every_call_ran_once(cluster: Cluster, *, failed: int = 0) -> None:
    """Check that at most `failed` calls failed, that all others ran once, and that none ran twice."""
    runs = cluster.runs()
    answered = [one.call for one in cluster.load.results if one.outcome == OK]
    assert len(cluster.load.failed) <= failed, cluster.load.failed
    assert {runs[call] for call in answered} == {1}
    assert max(runs.values()) == 1


@pytest.mark.parametrize("client", ["grpc", "http"])
def test_a_killed_broker_costs_only_calls_under_way(cluster: Cluster, client: str) -> None:
    getattr(cluster, f"start_{client}")()
    killed = cluster.brokers[0]
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    cluster.load.wait_for_others(killed)
    restart(cluster, killed)
    check_every_call_ran_once(cluster, failed=THREADS)


@pytest.mark.parametrize("client", ["grpc", "http"])
def test_a_drained_broker_costs_no_call(cluster: Cluster, client: str) -> None:
    getattr(cluster, f"start_{client}")()
    drained = cluster.brokers[0]
    assert drained.stop() == 0
    cluster.load.wait_for_others(drained)
    restart(cluster, drained)
    check_every_call_ran_once(cluster)


@pytest.mark.parametrize("client", ["grpc", "http"])
def test_calls_outlast_a_network_that_fails_for_a_while(cluster: Cluster, client: str) -> None:
    getattr(cluster, f"start_{client}")()
    cut_off = cluster.brokers[0]
    cut_off.machine.unplug()
    wait_until(lambda: cluster.load.is_cut_off_from(cut_off), lambda: "nothing is sent to it")
    cut_off.machine.plug_in()
    cluster.load.wait_for(*cluster.brokers)
    check_every_call_ran_once(cluster)


def test_an_added_broker_is_found(tmp_path: Path) -> None:
    with running_cluster(tmp_path, "--max-connection-age", "1") as cluster:
        cluster.start_grpc()
        added = cluster.add_broker()
        cluster.publish(*cluster.brokers, added)
        cluster.load.wait_for(*cluster.brokers, added, calls=10)
        check_every_call_ran_once(cluster)


def test_brokers_share_what_hooks_store(cluster: Cluster) -> None:
    first, second, _ = cluster.brokers
    first.call("put", headers=[("Value", "from the first")])
    assert second.call("get").request.set_headers["Value"] == "from the first"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("client", ["grpc", "http"])
def test_brokers_that_come_and_go_for_long(cluster: Cluster, client: str) -> None:
    """Kill and drain each broker ten times in turn, and print what docs/reliability.md says about it."""
    getattr(cluster, f"start_{client}")()
    kills = 10 * BROKERS
    lost, silences, returns = [], [], []
    for number in range(kills):
        broker = cluster.brokers[number % BROKERS]
        failed, seen, killed_at = len(cluster.load.failed), len(cluster.load.results), time.monotonic()
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait()
        cluster.load.wait_for_others(broker)
        ends = [killed_at, *(one.ended for one in cluster.load.results[seen:] if one.outcome == OK)]
        silences.append(max(later - earlier for earlier, later in pairwise(ends)))
        lost.append(len(cluster.load.failed) - failed)
        broker.forget_status()
        broker.start().wait_ready()
        ready_at = time.monotonic()
        cluster.load.wait_for(broker)
        returns.append(time.monotonic() - ready_at)
    lost_by_kills = len(cluster.load.failed)
    for number in range(kills):
        broker = cluster.brokers[number % BROKERS]
        assert broker.stop() == 0
        restart(cluster, broker)
    assert len(cluster.load.failed) == lost_by_kills
    check_every_call_ran_once(cluster, failed=THREADS * kills)
    print(
        f"{client}: {len(cluster.load.results):,} calls, {THREADS} at a time; {kills} kills: {sum(lost)} calls failed,"
        f" at most {max(lost)} by one; longest time without an answer: median {median(silences) * 1e3:.0f} ms, at most"
        f" {max(silences) * 1e3:.0f} ms; from ready to the first call: median {median(returns):.1f} s, at most"
        f" {max(returns):.1f} s; {kills} drains: none failed"
    )
