"""TLS for both ends of a connection: contexts, certificates and keys from PEM files.

TLS 1.2 and 1.3 only, with cipher suites that HTTP/2 allows (RFC 9113, section 9.2.2). Errors name the option and the
file. Servers issue no tickets: a gateway keeps one connection. What TLS 1.2 can resume without them ends with the
context, and so with an old --tls-client-ca.
"""

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ConfigError
from tykpy.broker.units import show_size
from tykpy.ipc.regular_file import open_regular
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.tls")

PREFIX: Final = "tls://"
"""Start of addresses that are served with TLS."""
HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds from accepting a connection to the end of its handshake."""
SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that a peer has to answer the closing message (close_notify)."""
HTTP2: Final = ("h2",)
_MAX_PEM: Final = 8 * 1024 * 1024
"""Bytes of a PEM file; a system's CAs have 200 KiB."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Cipher suites of TLS 1.2; all of TLS 1.3's are secure."""

_notices: Final = QuietLog(log)


class _Handshake(ssl.SSLObject):
    """Logs why a handshake failed, which event loops do not tell."""

    def do_handshake(self) -> None:
        """Continue the handshake."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", None) or (error.reason or "it ended").replace("_", " ").lower()
            _notices.log(logging.WARNING, reason, f"a TLS handshake failed: {reason}")
            raise


def server_options(config: BrokerConfig, protocols: Sequence[str]) -> dict[str, Any]:
    """Return arguments of `loop.create_server` for peers that speak one of these protocols (ALPN; none: any).

    Raises ConfigError, naming the option, if the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Handshake
    harden(context)
    context.num_tickets = 0
    if protocols:
        context.set_alpn_protocols(list(protocols))
    load_certificate(context, config)
    if config.tls_client_ca is not None:
        load_authorities(context, "--tls-client-ca", config.tls_client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return {
        "ssl": context,
        "ssl_handshake_timeout": HANDSHAKE_TIMEOUT,
        "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }


class KeyFiles(Protocol):
    """The options that name a certificate and its key."""

    @property
    def tls_cert(self) -> Path | None:
        """`--tls-cert`."""

    @property
    def tls_key(self) -> Path | None:
        """`--tls-key`; None: in the same file."""

    @property
    def tls_key_passphrase_file(self) -> Path | None:
        """`--tls-key-passphrase-file`."""


def harden(context: ssl.SSLContext) -> None:
    """Allow only secure versions and cipher suites, and no sessions that could be resumed."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET


def load_certificate(context: ssl.SSLContext, files: KeyFiles) -> None:
    """Load the certificate that is shown to the peer. Raises ConfigError."""
    certificate = files.tls_cert
    if certificate is None:
        raise ConfigError("--tls-key: needs --tls-cert")
    key = files.tls_key or certificate
    key_name = f"--tls-key {key}" if files.tls_key else f"--tls-cert {key}"
    _check_pem("--tls-cert", certificate, b"CERTIFICATE-----")
    _check_pem("--tls-key" if files.tls_key else "--tls-cert", key, b"PRIVATE KEY-----")
    passphrase = _Passphrase(key_name, files.tls_key_passphrase_file)
    try:
        context.load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{key_name} is not the key of the certificate in --tls-cert {certificate}"
        elif passphrase.was_asked:
            text = f"{key_name} cannot be decrypted: the passphrase in {files.tls_key_passphrase_file} is another one"
        else:
            text = f"--tls-cert {certificate} and {key_name} cannot be used: {error.reason or error}"
        raise ConfigError(text) from error


def load_authorities(context: ssl.SSLContext, flag: str, path: Path) -> None:
    """Load the CAs whose certificates the peer may show. Raises ConfigError."""
    _check_pem(flag, path, b"CERTIFICATE-----")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"{flag} {path} cannot be used: {error.reason or error}") from error


def _check_pem(flag: str, path: Path, mark: bytes) -> None:
    """Raise ConfigError if a file has no such part; OpenSSL's own error does not even name the file."""
    if mark not in _read(flag, path):
        what = mark.rstrip(b"-").decode().lower()
        raise ConfigError(f"{flag} {path}: there is no {what} in it, in PEM")


def _read(flag: str, path: Path) -> bytes:
    try:
        # OpenSSL opens it again: a pipe would be empty then.
        with open_regular(path) as file:
            read = file.read(_MAX_PEM + 1)
    except OSError as error:
        raise ConfigError(f"{flag} {path}: {error.strerror}") from error
    if len(read) > _MAX_PEM:
        raise ConfigError(f"{flag} {path}: larger than {show_size(_MAX_PEM)}")
    return read


class _Passphrase:
    """Reads the passphrase if the key turns out to be encrypted."""

    def __init__(self, key_name: str, path: Path | None) -> None:
        self._key_name = key_name
        self._path = path
        self.was_asked = False

    def __call__(self) -> bytes:
        self.was_asked = True
        if self._path is None:
            raise ConfigError(f"{self._key_name} is encrypted: --tls-key-passphrase-file names where its passphrase is")
        return _read("--tls-key-passphrase-file", self._path).rstrip(b"\r\n")
