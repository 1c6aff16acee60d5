"""A Go program with stock libraries (grpc-go, crypto/tls) calls hooks over mutual TLS."""

import subprocess
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker
from tests.support.certificates import Authority, KeyPair
from tests.support.gateway.go_gateway import go_program
from tests.support.hooks import SOURCE
from tests.support.peers.redis_server import free_port
from tykpy.commands.objects import CallDescription, build_object

CALL = build_object(CallDescription("add_header", bundle="hooks")).SerializeToString()


def call(port: int, ca: Path, client: KeyPair | None) -> str:
    arguments = [go_program("tlsclient"), f"localhost:{port}", str(ca), *map(str, client or ())]
    done = subprocess.run(arguments, input=CALL, capture_output=True, check=True, timeout=60)
    return done.stdout.decode()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_only_a_client_with_the_right_certificate_gets_in(tmp_path: Path, loop: str) -> None:
    servers, clients, port = Authority(tmp_path, "server-ca"), Authority(tmp_path, "client-ca"), free_port()
    server = servers.issue("server")
    files = ["--tls-cert", str(server.cert), "--tls-key", str(server.key), "--tls-client-ca", str(clients.path)]
    broker = RunningBroker(tmp_path, "--listen", f"tls://127.0.0.1:{port}", *files, "--event-loop", loop)
    broker.add_file("hooks.py", SOURCE)
    with broker:
        assert "headers: map[X-Worker:" in call(port, servers.path, clients.issue("client"))
        # With TLS 1.3 a client may send its call before it is refused, so its own error message is not deterministic.
        for stranger, why in (
            (None, "peer did not return a certificate"),
            (servers.issue("wrong"), "unable to get local issuer certificate"),
        ):
            assert "error: rpc error: code = Unavailable" in call(port, servers.path, stranger)
            broker.wait_for_log(f"a TLS handshake failed: {why}")
        # The client verifies the broker as well.
        assert "x509: certificate signed by unknown authority" in call(port, clients.path, clients.issue("client"))
