"""nginx, haproxy and Envoy in front of brokers, with the configurations of docs/proxies.md: no call is lost."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from benchmarks import h2load
from tests.faults.host.test_upgrade import FILES, grpcio_client, upgradable, upgrade
from tests.support.broker import PATIENCE, RunningBroker, running_broker, wait_until
from tests.support.certificates import TlsFiles
from tests.support.hooks import Gate
from tests.support.peers.grpc_server import EchoServer
from tests.support.peers.http2_peer import message as framed
from tests.support.peers.load import METHOD, Load
from tests.support.peers.proxies import LANGUAGES, RunningProxy, program
from tests.support.peers.redis_server import free_port
from tykpy.broker.codes import ServingStatus
from tykpy.broker.grpc.health import BROKER_SERVICES
from tykpy.commands.objects import CallDescription, build_object

UPLOADS = 22
"""Requests at once: above 64 MiB together."""
UPLOAD_BYTES = 3_000_000
H2LOAD_CALLS = 3_000
UNLIMITED = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
NO_CHECKS: dict[str, dict[str, str]] = {
    "nginx": {},
    "haproxy": {" check inter 1s": ""},
    "envoy": {r" +health_checks:\n( {8}.*\n)+": ""},
}
"""Edits that remove health checks from a configuration, since they open connections of their own."""
IDLE_SOON = {
    "nginx": {"keepalive 1000;": "keepalive 1000; keepalive_timeout 100ms;"},
    "haproxy": {"default-server": "default-server pool-purge-delay 100ms"},
    "envoy": {"( +)explicit_http_config": r"\1common_http_protocol_options: {idle_timeout: 0.1s}\n\g<0>"},
}
"""Edits that make a proxy close idle connections."""
CHECK_OFTEN = {
    "haproxy": {"inter 1s": "inter 100ms", "timeout check 2s": "timeout check 500ms"},
    "envoy": {"interval: 1s": "interval: 0.1s"},
}
"""Edits that make a proxy check its servers more often."""


@pytest.fixture(params=LANGUAGES)
def name(request: pytest.FixtureRequest) -> str:
    program(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return TlsFiles(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, tls: TlsFiles) -> Iterator[RunningBroker]:
    """A shared broker on a TCP port and on one with TLS."""
    tcp = f"tcp://127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("broker")
    with running_broker(folder, "--listen", tcp, *tls.mutual, workers=2, files=FILES) as running:
        yield running


def port_of(broker: RunningBroker) -> int:
    """The port that proxies connect to."""
    return int(re.findall(r"listening on tcp://127\.0\.0\.1:(\d+)", broker.log)[-1])


def workers_of(broker: RunningBroker) -> set[int]:
    """The ids of its worker processes."""
    return {worker["pid"] for worker in broker.status()["workers"]}


def call(proxy: RunningProxy, hook: str, gate: Gate) -> bytes:
    """Call a hook that waits at a gate, on a connection of its own."""
    message = build_object(CallDescription(hook, bundle="hooks", headers=gate.headers())).SerializeToString()
    with grpc.insecure_channel(proxy.target, options=UNLIMITED) as channel:
        return bytes(channel.unary_unary(METHOD)(message, timeout=PATIENCE))


def echo(proxy: RunningProxy, calls: int) -> int:
    """Make calls on one connection; return how many were answered correctly."""
    with grpc.insecure_channel(proxy.target, options=UNLIMITED) as channel:
        method = channel.unary_unary(METHOD)
        return sum(method(b"%d" % number, timeout=PATIENCE) == b"%d" % number for number in range(calls))


def load(proxy: RunningProxy, callers: int) -> Load:
    """Clients with a connection each."""
    return Load(proxy.target, "echo_with_worker", "hooks", callers, connect=grpcio_client)


def upload(target: str) -> Counter[str]:
    """Send many large requests at once on one connection; count the outcomes."""
    request = build_object(CallDescription("echo", bundle="hooks", headers=[("Nonce", "x")]))
    request.request.raw_body = bytes(UPLOAD_BYTES)
    message = request.SerializeToString()
    outcomes: Counter[str] = Counter()

    async def run() -> None:
        async with grpc.aio.insecure_channel(target, options=UNLIMITED) as channel:
            calls = [channel.unary_unary(METHOD)(message, timeout=PATIENCE) for _ in range(UPLOADS)]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                outcomes["ok" if isinstance(outcome, bytes) and len(outcome) > UPLOAD_BYTES else str(outcome)] += 1

    asyncio.run(run())
    return outcomes


def flood(proxy: RunningProxy, folder: Path) -> None:
    """Run h2load with four connections of 32 streams each, and check every answer."""
    request = build_object(CallDescription("echo", bundle="hooks", headers=[("Nonce", "x")])).SerializeToString()
    with grpc.insecure_channel(proxy.target, options=UNLIMITED) as channel:
        answer = channel.unary_unary(METHOD)(request, timeout=PATIENCE)
    body = folder / "body"
    body.write_bytes(framed(request))
    command = ["h2load", "-n", str(H2LOAD_CALLS), "-c", "4", "-m", "32", "-d", str(body), "-H", "te: trailers"]
    command += ["-H", "content-type: application/grpc", f"http://{proxy.target}{METHOD}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    h2load.check(h2load.parse_summary(output), H2LOAD_CALLS, len(framed(answer)))


def test_no_call_is_lost_in_front_of_one_broker(name: str, tmp_path: Path) -> None:
    port = free_port()
    with upgradable(tmp_path, "--listen", f"tcp://127.0.0.1:{port}", workers=2) as broker:
        with RunningProxy(name, tmp_path, port) as proxy:
            with load(proxy, callers=1) as serial:
                serial.wait_for_more(300)
            if shutil.which("h2load"):
                flood(proxy, tmp_path)
            assert upload(proxy.target) + upload(proxy.target) == {"ok": 2 * UPLOADS}
            with load(proxy, callers=8) as calls:
                calls.wait_for_more(200)
                with broker.admin() as client:
                    client.call("reload")
                calls.wait_for_more(200)
                upgrade(broker)
                calls.wait_for_more(200)
            for ended in (serial, calls):
                ended.check()
                assert not ended.errors, f"{ended}; {proxy.log}"


def test_a_killed_worker_costs_what_it_ran(name: str, broker: RunningBroker, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with RunningProxy(name, tmp_path, port_of(broker)) as proxy, ThreadPoolExecutor(1) as callers:
        with load(proxy, callers=4) as calls:
            held = callers.submit(call, proxy, "gated_async", gate)
            ((pid, _, _),) = gate.wait_entered()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(grpc.RpcError, match="was ended by SIGKILL while it ran this hook"):
                held.result()
            calls.wait_for_more(200)
        calls.check()
        assert not [error for error in calls.errors if "was ended by SIGKILL" not in error], proxy.log


def test_no_call_is_lost_when_one_of_two_brokers_stops(name: str, broker: RunningBroker, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    flags = ["--grace", "60", "--listen", f"tcp://127.0.0.1:{free_port()}"]
    with running_broker(tmp_path, *flags, files=FILES) as stopped:
        with RunningProxy(name, tmp_path, port_of(stopped), port_of(broker)) as proxy, ThreadPoolExecutor(8) as callers:
            held = [callers.submit(call, proxy, "gated_async", gate) for _ in range(8)]
            at_gate = {pid for pid, _, _ in gate.wait_entered(8)}
            assert at_gate & workers_of(stopped)
            assert at_gate & workers_of(broker)
            with load(proxy, callers=8) as calls:
                calls.wait_for_more(100)
                os.kill(stopped.pid, signal.SIGTERM)
                stopped.wait_for_log("draining:")
                calls.wait_for_more(200)
                gate.open()
                assert all(one.result() for one in held)
                assert stopped.wait() == 0
                stopped.forget_status()
                stopped.start().wait_ready()
                again = {str(pid) for pid in workers_of(stopped)}
                wait_until(lambda: bool(again & set(calls.seen)), lambda: f"it gets calls again; {proxy.log}")
            calls.check()
            assert not calls.errors, f"{calls}; {proxy.log}"


def test_idle_connections_are_closed_by_either_side(name: str, tmp_path: Path) -> None:
    with EchoServer() as server:
        port = int(server.target.rpartition(":")[2])
        with RunningProxy(name, tmp_path, port, edits={**NO_CHECKS[name], **IDLE_SOON[name]}) as proxy:
            assert echo(proxy, 5) == 5
            server.wait_until(lambda: len(server.grpc.connections) == 0)
            assert echo(proxy, 5) == 5
        server.wait_until(lambda: len(server.grpc.connections) == 0)
        with RunningProxy(name, tmp_path, port, edits=NO_CHECKS[name]) as proxy:
            assert echo(proxy, 5) == 5
            assert server.grpc.connections
            for later in (0, 2 * server.grpc.limits.idle_timeout):
                server.run(server.grpc.connections.sweep, server.loop.time() + later)
            server.wait_until(lambda: len(server.grpc.connections) == 0)
            assert echo(proxy, 5) == 5


@pytest.mark.parametrize("name", ["haproxy", "envoy"], indirect=True)
def test_health_checks_leave_out_a_server_that_does_not_serve(name: str, tmp_path: Path) -> None:
    with EchoServer() as first, EchoServer() as second:
        ports = [int(server.target.rpartition(":")[2]) for server in (first, second)]
        for server in (first, second):
            server.run(server.grpc.health.set, dict.fromkeys(BROKER_SERVICES, ServingStatus.SERVING))

        def gets_calls() -> bool:
            before = len(first.dispatcher.dispatched)
            assert echo(proxy, 20) == 20
            return len(first.dispatcher.dispatched) > before

        with RunningProxy(name, tmp_path, *ports, edits=CHECK_OFTEN[name]) as proxy:
            wait_until(gets_calls, lambda: f"the first gets calls; {proxy.log}")
            first.run(first.grpc.health.set, dict.fromkeys(BROKER_SERVICES, ServingStatus.NOT_SERVING))
            wait_until(lambda: not gets_calls(), lambda: f"the first gets no calls; {proxy.log}")
            first.run(first.grpc.health.set, dict.fromkeys(BROKER_SERVICES, ServingStatus.SERVING))
            wait_until(gets_calls, lambda: f"the first gets calls again; {proxy.log}")


def test_tls_between_proxy_and_broker(name: str, broker: RunningBroker, tls: TlsFiles, tmp_path: Path) -> None:
    with RunningProxy(name, tmp_path, tls.port, tls=tls) as proxy:
        with load(proxy, callers=4) as calls:
            calls.wait_for_more(200)
        assert upload(proxy.target) == {"ok": UPLOADS}
    calls.check()
    assert not calls.errors, f"{calls}; {proxy.log}"
