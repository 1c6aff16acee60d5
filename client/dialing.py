"""Connections to a broker, as its clients make them: `unix:///path`, `tcp://host:port`, and `tls://host:port`.

Errors are for people: they name the address and, for TLS, which option would help.
"""

import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from tykpy.broker.errors import ConfigError, DialError
from tykpy.broker.net.addresses import parse_tcp, parse_unix
from tykpy.broker.net.tls import HTTP2, PREFIX, harden, load_authorities, load_certificate
from tykpy.client.unix import connect_unix

FIRST_READ_SECONDS: Final = 1.0
"""Seconds for a server to speak first, as HTTP/2 servers may; ours does."""
_READ_SIZE: Final = 16 * 1024
LOCALHOST: Final = "localhost"
"""The host of an address without one."""

_NO_CHAIN: Final = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's X509_V_ERR_... codes: no authority we trust has signed the certificate."""
_OTHER_NAME: Final = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS files of a client, with the names of the options; for addresses that begin with `tls://`."""

    tls_ca: Path | None = None
    """Authorities for the server's certificate; None: those that this system trusts."""
    tls_name: str | None = None
    """Host name that the certificate must be for; None: the address's host."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_key_passphrase_file: Path | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Pick the TLS options from a mapping; paths may be strings."""
        found: dict[str, Any] = {field.name: values.get(field.name) for field in fields(cls)}
        paths = {name: Path(value) for name, value in found.items() if value is not None and name != "tls_name"}
        return cls(**found | paths)

    @property
    def given(self) -> list[str]:
        """The options that are set."""
        return [f"--{one.name.replace('_', '-')}" for one in fields(self) if getattr(self, one.name) is not None]

    def context(self) -> ssl.SSLContext:
        """Return the context for a connection; raises ConfigError, naming the option, if a file cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        harden(context)
        context.set_alpn_protocols(list(HTTP2))
        if self.tls_ca is None:
            context.load_default_certs()
        else:
            load_authorities(context, "--tls-ca", self.tls_ca)
        if self.tls_cert or self.tls_key or self.tls_key_passphrase_file:
            load_certificate(context, self)
        return context


class Dialled(NamedTuple):
    """A connection, and the bytes that the server has sent already."""

    socket: socket.socket
    received: bytes = b""


def dial(address: str, timeout: float, tls: ClientTls | None = None) -> Dialled:
    """Connect to a broker's address for gRPC.

    Raises AddressError for an invalid address, ConfigError for options that cannot be used, DialError if TLS fails, and
    another OSError if nobody listens.
    """
    tls = tls or ClientTls()
    if address.startswith(PREFIX):
        return _dial_tls(address, timeout, tls)
    if tls.given:
        raise ConfigError(f"{', '.join(tls.given)}: for addresses that begin with tls://, which {address} does not")
    return Dialled(_dial_unix(address, timeout) if address.startswith("unix:") else _dial_tcp(address, "tcp", timeout))


def _dial_unix(address: str, timeout: float) -> socket.socket:
    try:
        return connect_unix(parse_unix(address), timeout)
    except OSError as error:
        raise type(error)(error.errno, f"{address}: {error.strerror}") from error


def _dial_tcp(address: str, scheme: str, timeout: float) -> socket.socket:
    host, port = parse_tcp(address, scheme)
    sock = socket.create_connection((host or LOCALHOST, port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _dial_tls(address: str, timeout: float, tls: ClientTls) -> Dialled:
    host, _ = parse_tcp(address, "tls")
    context = tls.context()
    plain = _dial_tcp(address, "tls", timeout)
    try:
        secured = context.wrap_socket(plain, server_hostname=tls.tls_name or host or LOCALHOST)
    except OSError as error:
        plain.close()
        raise _explained(address, tls, error) from error
    try:
        return Dialled(secured, _read_first(secured, address, tls))
    except OSError as error:
        secured.close()
        raise _explained(address, tls, error) from error


def _read_first(secured: ssl.SSLSocket, address: str, tls: ClientTls) -> bytes:
    """Read what the server sends first, and raise DialError if it closes the connection instead.

    In TLS 1.3 the client's handshake ends before the server has checked its certificate. This has to happen before
    anything is sent: if a server closes with unread data, its last message is lost.
    """
    if secured.selected_alpn_protocol() not in HTTP2:
        raise DialError(f"{address}: whoever answers there does not offer HTTP/2, as gRPC needs it")
    if not select.select([secured], [], [], FIRST_READ_SECONDS)[0]:
        return b""
    received = secured.recv(_READ_SIZE)
    if not received:
        raise DialError(f"{address}: the server closed the connection after the handshake; {_doubt(tls)}")
    return received


def _explained(address: str, tls: ClientTls, error: OSError) -> OSError:
    """Explain an error, naming the option that would help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return DialError(f"{address}: {_verification(address, tls, error)}")
    if isinstance(error, ssl.SSLError):
        return DialError(f"{address}: {_refusal(tls, error)}")
    if isinstance(error, DialError):
        return error
    return DialError(f"{address}: no TLS: {error.strerror or error}")


def _verification(address: str, tls: ClientTls, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_NAME:
        wanted = tls.tls_name or parse_tcp(address, "tls")[0] or LOCALHOST
        return f"the server's certificate is not for {wanted}; --tls-name says for whom it is"
    if error.verify_code in _NO_CHAIN:
        trusted = f"of --tls-ca {tls.tls_ca}" if tls.tls_ca else "that this system trusts; --tls-ca names another"
        return f"the server's certificate is of no CA {trusted} ({error.verify_message})"
    return f"the server's certificate is not accepted: {error.verify_message}"


def _refusal(tls: ClientTls, error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason == "WRONG_VERSION_NUMBER":
        return "whoever answers there does not speak TLS; is it tcp://?"
    said = reason.replace("_", " ").lower() or str(error)
    return f"the server ended the handshake ({said}); {_doubt(tls)}" if "_ALERT_" in reason else f"no TLS: {said}"


def _doubt(tls: ClientTls) -> str:
    """Guess why a server refuses us: some say so, ours writes it to its log, and some say nothing."""
    if tls.tls_cert is None:
        return "does it want a certificate of its clients? --tls-cert names ours"
    return f"is the certificate in --tls-cert {tls.tls_cert} of a CA that it trusts?"
