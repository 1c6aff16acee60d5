"""Certificates for tests: authorities, and the certificates that they sign."""

import datetime
import ipaddress
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.peers.redis_server import free_port

VALID_FOR: Final = datetime.timedelta(days=1)


class KeyPair(NamedTuple):
    """The files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A CA of its own; `path` is the file with its certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = _builder(name, name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, passphrase: bytes | None = None, *, expired: bool = False) -> KeyPair:
        """A certificate for localhost and 127.0.0.1, which servers and clients can use."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = _builder(name, self._name, key.public_key(), expired=expired).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        pair = KeyPair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.cert.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        pair.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return pair


class TlsFiles:
    """The files of one test: a server of one authority, clients of another."""

    def __init__(self, folder: Path) -> None:
        self.servers = Authority(folder, "server-ca")
        self.clients = Authority(folder, "client-ca")
        self.server = self.servers.issue("server")
        self.client = self.clients.issue("client")
        self.port = free_port()

    @property
    def flags(self) -> list[str]:
        """Return a broker's TLS options for one address."""
        files = ["--tls-cert", str(self.server.cert), "--tls-key", str(self.server.key)]
        return ["--listen", f"tls://127.0.0.1:{self.port}", *files]

    @property
    def mutual(self) -> list[str]:
        """Return the same, but require certificates of clients."""
        return [*self.flags, "--tls-client-ca", str(self.clients.path)]


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePublicKey, *, expired: bool = False
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_FOR)
        .not_valid_after(now - VALID_FOR / 2 if expired else now + VALID_FOR)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
