"""`tykpy call` and `tykpy bench --connect` over TLS, against real brokers: trust, client certificates and errors."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.broker import PATIENCE, TYKPY, RunningBroker
from tests.support.certificates import Authority, KeyPair, TlsFiles
from tests.support.hooks import SOURCE
from tests.support.peers.redis_server import free_port
from tykpy.broker.errors import ConfigError, DialError
from tykpy.broker.net.tls import HTTP2
from tykpy.cli import main
from tykpy.client.dialing import ClientTls, dial

CALL = ("call", "add_header", "--bundle", "hooks")
"""Runs in this process, as most of its time would go into the start of another."""
BENCH = ("bench", "--bundle", "hooks", "--hook", "add_header", "--seconds", "0.2", "--warm-up", "0", "--repeat", "1")
COMMANDS = pytest.mark.parametrize("command", [CALL, BENCH], ids=["call", "bench"])


class Place:
    """An open broker and one that wants client certificates, both with the same server certificate."""

    def __init__(self, folder: Path) -> None:
        self.files = TlsFiles(folder)
        self.open_port, self.rpc_port, self.plain_port = free_port(), free_port(), free_port()
        more = (f"tls://127.0.0.1:{self.open_port}", f"msgpack+tls://127.0.0.1:{self.rpc_port}")
        listen = [flag for address in (*more, f"tcp://127.0.0.1:{self.plain_port}") for flag in ("--listen", address)]
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        self.mutual = RunningBroker(folder / "a", *self.files.mutual)
        self.open = RunningBroker(folder / "b", *self.files.flags[2:], *listen)
        for broker in (self.mutual, self.open):
            broker.add_file("hooks.py", SOURCE)

    @property
    def trust(self) -> list[str]:
        return ["--tls-ca", str(self.files.servers.path)]

    @property
    def ours(self) -> list[str]:
        return ["--tls-cert", str(self.files.client.cert), "--tls-key", str(self.files.client.key)]

    def to_mutual(self, host: str = "127.0.0.1") -> list[str]:
        return ["--connect", f"tls://{host}:{self.files.port}"]

    def to_open(self, host: str = "127.0.0.1") -> list[str]:
        return ["--connect", f"tls://{host}:{self.open_port}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    found = Place(tmp_path_factory.mktemp("tls"))
    with found.mutual, found.open:
        yield found


def tykpy(*arguments: str) -> subprocess.CompletedProcess[str]:
    if arguments[: len(CALL)] == CALL:
        result = CliRunner().invoke(main, arguments)
        return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)
    return subprocess.run(
        [TYKPY, *arguments], capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL
    )


def refused(*arguments: str) -> str:
    """Run a command that cannot reach the broker; return its error, one readable line."""
    done = tykpy(*arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tykpy: ")
    return last


@COMMANDS
def test_server_and_client_know_each_other_by_their_certificates(place: Place, command: tuple[str, ...]) -> None:
    done = tykpy(*command, *place.to_mutual(), *place.trust, *place.ours)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
def test_a_server_that_takes_everybody(place: Place, host: str) -> None:
    done = tykpy(*CALL, *place.to_open(host), *place.trust)
    assert done.returncode == 0, done.stderr


def test_large_bodies_on_several_connections(place: Place, tmp_path: Path) -> None:
    """TLS records arrive in parts, and several in one read."""
    more = ("--body-size", "1KiB,3MiB", "--streams", "4", "--connections", "2", "--json", str(tmp_path / "json"))
    done = tykpy(*BENCH, *place.to_mutual(), *place.trust, *place.ours, *more)
    assert done.returncode == 0, done.stderr
    for result in json.loads((tmp_path / "json").read_text())["results"]:
        (sample,) = result["samples"]
        assert sum(sample["latencies_ns"].values()) >= 4
        assert (sample["failures"], sample["unanswered"]) == ({}, 0)


def test_a_call_with_a_large_body(place: Place, tmp_path: Path) -> None:
    """A body above the initial window needs the SETTINGS that the server sent before the call."""
    (tmp_path / "body").write_bytes(b"x" * 1_000_000)
    done = tykpy(*CALL, "-d", f"@{tmp_path / 'body'}", *place.to_mutual(), *place.trust, *place.ours)
    assert done.returncode == 0, done.stderr
    assert "add_header answered in" in done.stdout


@COMMANDS
def test_an_untrusted_server_is_refused(place: Place, command: tuple[str, ...]) -> None:
    said = refused(*command, *place.to_open())
    assert "of no CA that this system trusts; --tls-ca" in said
    said = refused(*command, *place.to_open(), "--tls-ca", str(place.files.clients.path))
    assert f"of no CA of --tls-ca {place.files.clients.path}" in said


def test_a_server_of_another_name(place: Place) -> None:
    said = refused(*CALL, *place.to_open(), *place.trust, "--tls-name", "broker.example")
    assert "is not for broker.example; --tls-name" in said
    done = tykpy(*CALL, *place.to_open(), *place.trust, "--tls-name", "localhost")
    assert done.returncode == 0, done.stderr


def test_a_server_that_does_not_take_us(place: Place) -> None:
    said = refused(*CALL, *place.to_mutual(), *place.trust)
    assert "does it want a certificate of its clients? --tls-cert" in said
    stranger = place.files.servers.issue("stranger")
    files = ("--tls-cert", str(stranger.cert), "--tls-key", str(stranger.key))
    said = refused(*CALL, *place.to_mutual(), *place.trust, *files)
    assert f"is the certificate in --tls-cert {stranger.cert} of a CA that it trusts?" in said


def test_addresses_of_other_services_are_explained(place: Place) -> None:
    plain = f"127.0.0.1:{place.plain_port}"
    assert "does not speak TLS; is it tcp://?" in refused(*CALL, "--connect", f"tls://{plain}", *place.trust)
    said = refused(*CALL, "--connect", f"tls://127.0.0.1:{place.rpc_port}", *place.trust)
    assert "does not offer HTTP/2" in said
    assert "--tls-ca: for addresses that begin with tls://" in refused(
        *CALL, "--connect", f"tcp://{plain}", *place.trust
    )
    assert "no broker answers at tls://127.0.0.1:1" in refused(*CALL, "--connect", "tls://127.0.0.1:1")
    assert "'here' is not an address" in refused(*CALL, "--connect", "here")


def test_files_that_cannot_be_used(place: Place, tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing.pem")
    assert f"--tls-ca {nothing}: No such file" in refused(*CALL, *place.to_open(), "--tls-ca", nothing)
    key = str(place.files.client.key)
    assert "--tls-key: needs --tls-cert" in refused(*CALL, *place.to_open(), *place.trust, "--tls-key", key)
    mixed = ("--tls-cert", str(place.files.client.cert), "--tls-key", str(place.files.server.key))
    assert "is not the key of the certificate" in refused(*CALL, *place.to_open(), *place.trust, *mixed)


@COMMANDS
def test_an_encrypted_key(place: Place, command: tuple[str, ...], tmp_path: Path) -> None:
    client = place.files.clients.issue("secured", b"open sesame")
    secret = tmp_path / "passphrase"
    secret.write_text("open sesame\n")
    flags = (*place.to_mutual(), *place.trust, "--tls-cert", str(client.cert), "--tls-key", str(client.key))
    done = tykpy(*command, *flags, "--tls-key-passphrase-file", str(secret))
    assert done.returncode == 0, done.stderr
    assert "is encrypted: --tls-key-passphrase-file" in refused(*command, *flags)


def test_bench_takes_them_for_running_brokers_only(place: Place) -> None:
    assert "--tls-ca: for a running broker" in refused("bench", *place.trust)


# Servers other than tykpy's


@contextlib.contextmanager
def foreign(pair: KeyPair, clients: Path | None = None, **versions: ssl.TLSVersion) -> Iterator[str]:
    """Run a server that sends an alert when it refuses a client; yield its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.set_alpn_protocols(list(HTTP2))
    for name, version in versions.items():
        setattr(context, name, version)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            plain, _ = listening.accept()
            with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as secured:
                secured.sendall(b"first word")
                secured.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tls://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join(PATIENCE)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_says_why(tmp_path: Path, version: ssl.TLSVersion) -> None:
    files = TlsFiles(tmp_path)
    ours = ClientTls(files.servers.path, None, files.client.cert, files.client.key)
    with foreign(files.server, files.clients.path, minimum_version=version, maximum_version=version) as address:
        dialled = dial(address, PATIENCE, ours)
        with dialled.socket:
            assert dialled.received == b"first word"
    wanted = "alert.*--tls-cert names ours"
    with foreign(files.server, files.clients.path, minimum_version=version, maximum_version=version) as address:
        with pytest.raises(DialError, match=wanted):
            dial(address, PATIENCE, ClientTls(files.servers.path))


def test_old_versions_are_not_spoken(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path)
    context = ClientTls(files.servers.path).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "server-ca")
    with foreign(authority.issue("server", expired=True)) as address:
        with pytest.raises(DialError, match="not accepted: certificate has expired"):
            dial(address, PATIENCE, ClientTls(authority.path))


def test_options_are_for_tls_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tls-ca, --tls-name: for addresses"):
        dial(f"unix://{tmp_path}/s", PATIENCE, ClientTls.of({"tls_ca": os.fspath(tmp_path), "tls_name": "x"}))
