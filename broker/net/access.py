"""Who connects to a Unix socket, and whether it may.

The kernel tells: it is the process that called connect(2), whatever it passed its descriptor to later (unix(7)).
"""

import asyncio
import grp
import logging
import os
import pwd
import socket
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ConfigError
from tykpy.ipc.text import bounded
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.access")

SO_PEERGROUPS: Final = 59
"""The peer's supplementary groups (Linux's number; `socket` has no name for it)."""
_CREDENTIALS: Final = Struct("iII")
"""struct ucred: pid, uid, gid."""
_GROUP_BYTES: Final = 1024
"""The most that Python's getsockopt takes: 256 groups."""
_ROOT: Final = 0
_MAX_ID: Final = 2**32 - 2
"""The next number, -1, means to the kernel: leave it as it is."""
_SHOWN: Final = 40
"""Characters of a wrong number in an error message."""

Admission = Callable[[asyncio.BaseTransport], str | None]
"""Called for every new connection; returns why it is refused, in words for its peer, or None."""


class Peer(NamedTuple):
    """A process as it was when it connected."""

    pid: int
    uid: int
    gids: frozenset[int]
    """The peer's primary and supplementary groups."""


class CredentialCheck:
    """An admission of these users and members of these groups; it admits every connection without credentials (TCP)."""

    def __init__(self, name: str, users: frozenset[int], groups: frozenset[int] = frozenset()) -> None:
        """`name`: of the socket, in messages."""
        self._name = name
        self._users = users
        self._groups = groups
        self._notices = QuietLog(log)

    def __call__(self, transport: asyncio.BaseTransport) -> str | None:
        """Return why the peer is refused, if it is; log that, but not each time that the same peer comes."""
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            return None
        peer = peer_of(sock)
        if self.admits(peer):
            return None
        gids = ",".join(map(str, sorted(peer.gids)))
        who = f"process {peer.pid} of user {peer.uid}, groups {gids}"
        self._notices.log(logging.WARNING, f"{peer.uid} {gids}", f"{self._name}: refused {who}")
        return f"user {peer.uid} with groups {gids} may not connect to {self._name}"

    def admits(self, peer: Peer) -> bool:
        """Say whether a peer may connect."""
        return peer.uid in self._users or not self._groups.isdisjoint(peer.gids)


def peer_of(sock: socket.socket) -> Peer:
    """Return who connected to a Unix socket; `sock` may be an event loop's stand-in for the connected socket."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUP_BYTES)
    except OSError:
        groups = b""  # more groups than fit: user and primary group must do
    return Peer(pid, uid, frozenset((gid, *memoryview(groups).cast("I"))))


def gateway_admission(config: BrokerConfig) -> Admission | None:
    """Return the check of --allow-user and --allow-group; None if socket permissions alone decide.

    Raises ConfigError.
    """
    if not config.allow_user and not config.allow_group:
        return None
    users, groups = map(user_id, config.allow_user), map(group_id, config.allow_group)
    return CredentialCheck("this socket", frozenset(users), frozenset(groups))


def admin_admission() -> Admission:
    """Return the check of the admin socket: admits our own user, and root, who can do anything anyway."""
    return CredentialCheck("the admin socket", frozenset({_ROOT, os.geteuid()}))


def _number(name: str) -> int | None:
    """Return the number of a user or group that is named by it. Raises ConfigError if there cannot be one."""
    if not (name.isascii() and name.isdecimal()):
        return None
    if len(name) > len(str(_MAX_ID)) or int(name) > _MAX_ID:
        raise ConfigError(f"{bounded(name, _SHOWN)} is no number of a user or group: they go up to {_MAX_ID}")
    return int(name)


def user_id(user: str) -> int:
    """Return the number of a user, by name or number. Raises ConfigError for an unknown name."""
    try:
        number = _number(user)
        return pwd.getpwnam(user).pw_uid if number is None else number
    except KeyError:
        raise ConfigError(f"no user {user!r} on this machine") from None


def group_id(group: str) -> int:
    """Return the number of a group, by name or number. Raises ConfigError for an unknown name."""
    try:
        number = _number(group)
        return grp.getgrnam(group).gr_gid if number is None else number
    except KeyError:
        raise ConfigError(f"no group {group!r} on this machine") from None
