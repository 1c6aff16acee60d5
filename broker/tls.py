"""TLS for listening sockets: contexts from files, made anew whenever the files have changed.

TLS 1.2 and 1.3 only, with cipher suites that HTTP/2 allows (RFC 9113, section 9.2.2). No session is resumed: a gateway
keeps one connection, and a resumed one would not be checked against a new --tls-client-ca.
"""

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from broker.config import BrokerConfig
from broker.errors import ConfigError
from broker.quiet_log import QuietLog

log = logging.getLogger("tykpy.tls")

PREFIX: Final = "tls://"
"""Addresses that begin so are served with TLS."""
HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds from the connection to the end of its handshake."""
SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that a peer has to say goodbye in return."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all sound."""
HTTP2: Final = ("h2",)

_notices: Final = QuietLog(log)


class _Handshake(ssl.SSLObject):
    """Says why a handshake failed, which event loops keep to themselves."""

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", None) or (error.reason or "it ended").replace("_", " ").lower()
            _notices.log(logging.WARNING, reason, f"a TLS handshake failed: {reason}")
            raise


def server_options(config: BrokerConfig, protocols: Sequence[str]) -> dict[str, Any]:
    """What `loop.create_server` takes besides, for peers that speak one of these protocols (ALPN; none: any).

    Raises ConfigError, naming the option, where the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Handshake
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    if protocols:
        context.set_alpn_protocols(list(protocols))
    _load_certificate(context, config)
    if config.tls_client_ca is not None:
        _load_client_ca(context, config.tls_client_ca)
    return {
        "ssl": context,
        "ssl_handshake_timeout": HANDSHAKE_TIMEOUT,
        "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }


def _load_certificate(context: ssl.SSLContext, config: BrokerConfig) -> None:
    certificate = config.tls_cert
    if certificate is None:
        raise ConfigError("--listen tls://...: needs --tls-cert")
    key = config.tls_key or certificate
    key_name = f"--tls-key {key}" if config.tls_key else f"--tls-cert {key}"
    _check_pem("--tls-cert", certificate, b"CERTIFICATE-----")
    _check_pem("--tls-key" if config.tls_key else "--tls-cert", key, b"PRIVATE KEY-----")
    passphrase = _Passphrase(key_name, config.tls_key_passphrase_file)
    try:
        context.load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{key_name} is not the key of the certificate in --tls-cert {certificate}"
        elif passphrase.was_asked:
            text = f"{key_name} cannot be decrypted: the passphrase in {config.tls_key_passphrase_file} is another one"
        else:
            text = f"--tls-cert {certificate} and {key_name} cannot be used: {error.reason or error}"
        raise ConfigError(text) from error


def _load_client_ca(context: ssl.SSLContext, path: Path) -> None:
    _check_pem("--tls-client-ca", path, b"CERTIFICATE-----")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"--tls-client-ca {path} cannot be used: {error.reason or error}") from error
    context.verify_mode = ssl.CERT_REQUIRED


def _check_pem(flag: str, path: Path, mark: bytes) -> None:
    """What OpenSSL says of a file that it cannot use does not even tell which."""
    if mark not in _read(flag, path):
        what = mark.rstrip(b"-").decode().lower()
        raise ConfigError(f"{flag} {path}: there is no {what} in it, in PEM")


def _read(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag} {path}: {error.strerror}") from error


class _Passphrase:
    """Read when the key turns out to be encrypted."""

    def __init__(self, key_name: str, path: Path | None) -> None:
        self._key_name = key_name
        self._path = path
        self.was_asked = False

    def __call__(self) -> bytes:
        self.was_asked = True
        if self._path is None:
            raise ConfigError(f"{self._key_name} is encrypted: --tls-key-passphrase-file names where its passphrase is")
        return _read("--tls-key-passphrase-file", self._path).rstrip(b"\r\n")
