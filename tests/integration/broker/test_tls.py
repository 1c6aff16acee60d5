"""Listeners with TLS and mutual TLS: who is accepted, how others are refused, and renewed certificates."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import msgpack
import psutil
import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, wait_until
from tests.support.certificates import Authority, KeyPair, TlsFiles
from tests.support.hooks import SOURCE
from tests.support.peers.redis_server import free_port
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.codes import GrpcCode
from tykpy.commands.objects import CallDescription, build_object

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
DISPATCH = "/coprocess.Dispatcher/Dispatch"
CALL = build_object(CallDescription("add_header", bundle="hooks")).SerializeToString()


class Tls(TlsFiles):
    """Test certificates, and ways to call the broker that uses them."""

    def channel(self, client: KeyPair | None) -> grpc.Channel:
        """Return a grpcio channel, with this client's certificate if there is one."""
        files = (client.key.read_bytes(), client.cert.read_bytes()) if client else (None, None)
        credentials = grpc.ssl_channel_credentials(self.servers.path.read_bytes(), *files)
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options=options)

    def call(self, client: KeyPair | None) -> str:
        """Dispatch once on a new connection; return the header that the hook sets, or the error."""
        with self.channel(client) as channel:
            return dispatch(channel)

    def connect(self, client: KeyPair | None = None, **versions: ssl.TLSVersion) -> ssl.SSLSocket:
        """Return a connection made with Python's ssl module."""
        context = ssl.create_default_context(cafile=str(self.servers.path))
        context.set_alpn_protocols(["h2"])
        for name, version in versions.items():
            setattr(context, name, version)
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        return context.wrap_socket(plain, server_hostname="localhost")


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


def dispatch(channel: grpc.Channel) -> str:
    try:
        answer: bytes = channel.unary_unary(DISPATCH)(CALL, timeout=PATIENCE)
    except grpc.RpcError as error:
        return f"{GrpcCode[error.code().name].name}: {error.details()}"
    return "answered by " + Object.FromString(answer).request.set_headers["X-Worker"]


@contextlib.contextmanager
def broker_with(folder: Path, *flags: str) -> Iterator[RunningBroker]:
    broker = RunningBroker(folder, *flags)
    broker.add_file("hooks.py", SOURCE)
    with broker:
        yield broker


@LOOPS
def test_only_clients_with_a_certificate_of_our_authority_get_in(tmp_path: Path, tls: Tls, loop: str) -> None:
    with broker_with(tmp_path, *tls.mutual, "--event-loop", loop) as broker:
        assert tls.call(tls.client).startswith("answered by")
        assert tls.call(None).startswith("UNAVAILABLE")
        broker.wait_for_log("a TLS handshake failed: peer did not return a certificate")
        # One from another authority, and one from an authority of the same name.
        (tmp_path / "other").mkdir()
        for stranger in (tls.servers.issue("stranger"), Authority(tmp_path / "other", "client-ca").issue("impostor")):
            assert tls.call(stranger).startswith("UNAVAILABLE")
        wait_until(lambda: broker.log.count("a TLS handshake failed") >= 2, lambda: broker.log)
        assert tls.call(tls.client).startswith("answered by")
        assert "Traceback" not in broker.log


@LOOPS
def test_without_an_authority_everybody_gets_in(tmp_path: Path, tls: Tls, loop: str) -> None:
    with broker_with(tmp_path, *tls.flags, "--event-loop", loop):
        assert tls.call(None).startswith("answered by")
        with tls.connect() as connection:
            assert (connection.selected_alpn_protocol(), connection.version()) == ("h2", "TLSv1.3")


@LOOPS
def test_old_versions_and_plain_text_are_refused(tmp_path: Path, tls: Tls, loop: str) -> None:
    with broker_with(tmp_path, *tls.flags, "--event-loop", loop) as broker:
        with tls.connect(maximum_version=ssl.TLSVersion.TLSv1_2) as connection:
            assert connection.version() == "TLSv1.2"
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises((ssl.SSLError, OSError)):
            tls.connect(minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1)
        with grpc.insecure_channel(f"127.0.0.1:{tls.port}") as channel:
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(DISPATCH)(CALL, timeout=3)
        broker.wait_for_log("a TLS handshake failed")
        assert tls.call(None).startswith("answered by")
        assert "Traceback" not in broker.log


@LOOPS
def test_ciphers_that_http2_forbids_are_refused(tmp_path: Path, tls: Tls, loop: str) -> None:
    with broker_with(tmp_path, *tls.flags, "--event-loop", loop):
        context = ssl.create_default_context(cafile=str(tls.servers.path))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        for ciphers, is_sound in (("ECDHE+AESGCM", True), ("ECDHE+AES:!AESGCM:!AESCCM", False)):
            context.set_ciphers(ciphers)
            with socket.create_connection(("127.0.0.1", tls.port), PATIENCE) as plain:
                expected = contextlib.nullcontext() if is_sound else pytest.raises((ssl.SSLError, OSError))
                with expected, context.wrap_socket(plain, server_hostname="localhost") as connection:
                    assert connection.version() == "TLSv1.2"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_outlives_the_certificates(tmp_path: Path, tls: Tls, version: ssl.TLSVersion) -> None:
    """A resumed session would not be checked against a new --tls-client-ca."""
    context = ssl.create_default_context(cafile=str(tls.servers.path))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with broker_with(tmp_path, *tls.flags) as broker, contextlib.ExitStack() as connections:

        def connect(session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
            plain = connections.enter_context(socket.create_connection(("127.0.0.1", tls.port), PATIENCE))
            connection = context.wrap_socket(plain, server_hostname="localhost", session=session)
            assert connection.recv(9)  # the broker's SETTINGS; a session ticket would come before
            return connections.enter_context(connection)

        session = connect().session
        assert session is not None
        assert not session.has_ticket
        os.kill(broker.pid, signal.SIGHUP)
        broker.wait_for_log("certificates are renewed")
        assert not connect(session).session_reused


@LOOPS
def test_a_peer_that_starts_no_handshake_is_cut_off(tmp_path: Path, tls: Tls, loop: str) -> None:
    with broker_with(tmp_path, *tls.flags, "--event-loop", loop):
        with socket.create_connection(("127.0.0.1", tls.port), PATIENCE) as silent:
            assert silent.recv(100) == b""


@LOOPS
def test_renewed_certificates_apply_to_new_connections_only(tmp_path: Path, tls: Tls, loop: str) -> None:
    """Connections that are open at a renewal stay open."""
    with broker_with(tmp_path, *tls.mutual, "--event-loop", loop) as broker, tls.channel(tls.client) as kept:
        assert dispatch(kept).startswith("answered by")
        with tls.connect(tls.client) as connection:
            before = connection.getpeercert()
        assert tls.servers.issue("server") == tls.server, "the same files, with other contents"
        clients = Authority(tmp_path, "client-ca")
        successor = clients.issue("successor")
        os.kill(broker.pid, signal.SIGHUP)
        broker.wait_for_log("certificates are renewed")
        with tls.connect(successor) as connection:
            assert connection.getpeercert() != before
        assert tls.call(successor).startswith("answered by")
        assert tls.call(tls.client).startswith("UNAVAILABLE"), "its authority is none any more"
        assert dispatch(kept).startswith("answered by")
        assert "Traceback" not in broker.log


def test_certificates_that_cannot_be_used_change_nothing(tmp_path: Path, tls: Tls) -> None:
    with broker_with(tmp_path, *tls.mutual) as broker:
        tls.server.key.write_bytes(tls.client.key.read_bytes())
        os.kill(broker.pid, signal.SIGHUP)
        broker.wait_for_log("certificates are not renewed, those in use stay: --tls-key")
        assert tls.call(tls.client).startswith("answered by")


def test_an_upgrade_keeps_the_address(tmp_path: Path, tls: Tls) -> None:
    with broker_with(tmp_path, *tls.mutual) as broker:
        os.kill(broker.pid, signal.SIGUSR2)
        assert broker.wait() == 0
        successor = psutil.Process(broker.status()["pid"])
        try:
            assert tls.call(tls.client).startswith("answered by")
        finally:
            successor.terminate()
            successor.wait(PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", tls.port), PATIENCE)


@LOOPS
def test_messagepack_rpc_over_tls(tmp_path: Path, tls: Tls, loop: str) -> None:
    flags = [flag.replace("tls://", "msgpack+tls://") for flag in tls.mutual]
    with broker_with(tmp_path, *flags, "--event-loop", loop):
        with tls.connect(tls.client) as connection:
            connection.sendall(msgpack.packb([0, 7, "ping", []]))
            assert msgpack.unpackb(connection.recv(1000)) == [1, 7, None, "pong"]
            # Bytes that are not MessagePack-RPC are answered with an error, and end the connection.
            connection.sendall(b"\xc1")
            assert msgpack.unpackb(connection.recv(1000))[0] == 1
            with contextlib.suppress(ssl.SSLEOFError, ConnectionResetError):
                assert connection.recv(1000) == b""
        assert not answers_a_stranger(tls)


def answers_a_stranger(tls: Tls) -> bool:
    """Return whether a client without a certificate gets an answer.

    With TLS 1.3 its handshake succeeds before the server has checked its certificate.
    """
    try:
        with tls.connect() as connection:
            connection.sendall(msgpack.packb([0, 7, "ping", []]))
            return bool(connection.recv(1000))
    except (ssl.SSLError, ConnectionResetError):
        return False


def test_a_key_that_is_encrypted(tmp_path: Path, tls: Tls) -> None:
    tls.server = tls.servers.issue("secured", b"open sesame")
    secret = tmp_path / "passphrase"
    secret.write_text("open sesame\n")
    with broker_with(tmp_path, *tls.flags, "--tls-key-passphrase-file", str(secret)) as broker:
        assert tls.call(None).startswith("answered by")
        assert "sesame" not in broker.log
    secret.write_text("something else")
    for name, code in (("broker", 2), ("check-config", 1)):
        done = command(name, tmp_path, *tls.flags, "--tls-key-passphrase-file", str(secret))
        assert done.returncode == code
        assert "cannot be decrypted: the passphrase in" in done.stdout + done.stderr


def replace(path: Path, create: Callable[[Path], object]) -> None:
    path.unlink()
    create(path)


NOT_A_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
BREAKAGES: dict[str, tuple[Callable[[Tls], object], Callable[[Tls], str]]] = {
    "no certificate file": (
        lambda tls: tls.server.cert.unlink(),
        lambda tls: f"--tls-cert {tls.server.cert}: No such file or directory",
    ),
    "no key file": (
        lambda tls: tls.server.key.unlink(),
        lambda tls: f"--tls-key {tls.server.key}: No such file or directory",
    ),
    "a key file without a key": (
        lambda tls: tls.server.key.write_text("nonsense"),
        lambda tls: f"--tls-key {tls.server.key}: there is no private key in it, in PEM",
    ),
    "a certificate file without one": (
        lambda tls: tls.server.cert.write_text("nonsense"),
        lambda tls: f"--tls-cert {tls.server.cert}: there is no certificate in it",
    ),
    "a damaged certificate": (
        lambda tls: tls.server.cert.write_text(NOT_A_CERTIFICATE),
        lambda tls: f"--tls-cert {tls.server.cert} and --tls-key {tls.server.key} cannot be used",
    ),
    "another key": (
        lambda tls: tls.server.key.write_bytes(tls.client.key.read_bytes()),
        lambda tls: f"--tls-key {tls.server.key} is not the key of the certificate in --tls-cert {tls.server.cert}",
    ),
    "a certificate file that never ends": (
        lambda tls: replace(tls.server.cert, lambda path: path.symlink_to("/dev/zero")),
        lambda tls: f"--tls-cert {tls.server.cert}: not a regular file",
    ),
    "a key in a FIFO that nobody writes to": (
        lambda tls: replace(tls.server.key, os.mkfifo),
        lambda tls: f"--tls-key {tls.server.key}: not a regular file",
    ),
    "authorities in a FIFO that nobody writes to": (
        lambda tls: replace(tls.clients.path, os.mkfifo),
        lambda tls: f"--tls-client-ca {tls.clients.path}: not a regular file",
    ),
    "an encrypted key": (
        lambda tls: tls.servers.issue("server", b"open sesame"),
        lambda tls: f"--tls-key {tls.server.key} is encrypted: --tls-key-passphrase-file names where",
    ),
    "no file of authorities": (
        lambda tls: tls.clients.path.unlink(),
        lambda tls: f"--tls-client-ca {tls.clients.path}: No such file or directory",
    ),
    "no authority": (
        lambda tls: tls.clients.path.write_bytes(tls.client.key.read_bytes()),
        lambda tls: f"--tls-client-ca {tls.clients.path}: there is no certificate in it",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, tls: Tls, breakage: str) -> None:
    cause, said = BREAKAGES[breakage]
    cause(tls)
    for name, code in (("broker", 2), ("check-config", 1)):
        done = command(name, tmp_path, *tls.mutual)
        assert done.returncode == code
        assert said(tls) in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "admin.sock").exists()


def test_tls_needs_a_certificate(tmp_path: Path) -> None:
    done = command("check-config", tmp_path, "--listen", "tls://127.0.0.1:1")
    assert (done.returncode, "needs --tls-cert" in done.stderr) == (2, True)


def test_an_address_open_to_everybody_causes_a_warning(tmp_path: Path, tls: Tls) -> None:
    here, anywhere, secured = free_port(), free_port(), free_port()
    flags = [*tls.flags, "--listen", f"tcp://127.0.0.1:{here}", "--listen", f"tcp://0.0.0.0:{anywhere}"]
    with broker_with(tmp_path, *flags, "--listen", f"tls://0.0.0.0:{secured}") as broker:
        lines = [line for line in broker.log.splitlines() if "whoever reaches this address" in line]
        assert len(lines) == 2
        assert f"tcp://0.0.0.0:{anywhere}: " in lines[0]
        assert "tls:// with --tls-client-ca" in lines[0]
        assert f"tls://0.0.0.0:{secured}: " in lines[1]
    with broker_with(tmp_path, *tls.mutual, "--allow-user", "0") as broker:
        assert "are about Unix sockets, not about this" in broker.log
        assert "whoever reaches" not in broker.log


def command(name: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    bundles = folder / "none"
    bundles.mkdir(exist_ok=True)
    return subprocess.run(
        [TYKPY, name, "--runtime-dir", str(folder / "run"), "--bundles", str(bundles), *flags],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
