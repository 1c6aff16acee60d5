"""What is to be said of addresses that let in more than their owner may have thought of."""

import ipaddress
import socket
from collections.abc import Iterator

from tykpy.broker.config import BrokerConfig
from tykpy.broker.net.sockets import ListeningSocket


def warnings_of(listening: ListeningSocket, config: BrokerConfig) -> Iterator[str]:
    """What everybody can do who reaches this address, where that is not wanted as a rule."""
    if listening.is_unix:
        return
    if config.allow_user or config.allow_group:
        yield f"{listening.address}: --allow-user and --allow-group are about Unix sockets, not about this"
    if _is_loopback(listening.socket):
        return
    if not listening.address.startswith("tls://"):
        yield (
            f"{listening.address}: whoever reaches this address can call hooks, and whoever is in between can read and "
            "change what passes; use tls:// with --tls-client-ca, or a Unix socket"
        )
    elif config.tls_client_ca is None:
        yield f"{listening.address}: whoever reaches this address can call hooks; --tls-client-ca says who may"


def _is_loopback(sock: socket.socket) -> bool:
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
