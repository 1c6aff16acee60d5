"""TLS for listening sockets: contexts from files, made anew whenever the files have changed.

TLS 1.2 and 1.3 only, with cipher suites that HTTP/2 allows (RFC 9113, section 9.2.2). No tickets are given: a gateway
keeps one connection. What TLS 1.2 can resume without them ends with the context, and so with an old --tls-client-ca.
"""

import logging
import ssl
from collections.abc import Sequence
from typing import Any, Final

from tykpy.broker.config import BrokerConfig
from tykpy.broker.net.pem import harden, load_authorities, load_certificate
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.tls")

PREFIX: Final = "tls://"
"""Addresses that begin so are served with TLS."""
HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds from the connection to the end of its handshake."""
SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that a peer has to say goodbye in return."""
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
