"""Who is at the other end of a Unix socket, and whether it may connect.

The kernel says who: the process that called connect(2), whatever it passed its descriptor to later (unix(7)).
"""

import asyncio
import grp
import logging
import os
import pwd
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import AccountError
from tykpy.telemetry.rate_limited_log import QuietLog

log = logging.getLogger("tykpy.access")

SO_PEERGROUPS: Final = 59
"""Linux's number, which `socket` has no name for: the peer's supplementary groups."""
_CREDENTIALS: Final = Struct("iII")
"""struct ucred: pid, uid, gid."""
_GROUP_BYTES: Final = 1024
"""The most that Python's getsockopt takes: 256 groups."""
_ROOT: Final = 0

Admission = Callable[[asyncio.BaseTransport], str | None]
"""Asked for every new connection: why it is refused, in words for its peer, or None."""


class Peer(NamedTuple):
    """A process as it was when it connected."""

    pid: int
    uid: int
    gids: frozenset[int]
    """Its primary and supplementary groups."""


@dataclass(frozen=True, slots=True)
class AllowList:
    """Who may connect: one of these users, or a member of one of these groups."""

    users: frozenset[int]
    groups: frozenset[int] = frozenset()

    def admits(self, peer: Peer) -> bool:
        """Whether this peer may."""
        return peer.uid in self.users or not self.groups.isdisjoint(peer.gids)


class CredentialCheck:
    """An admission by credentials; a connection that has none (TCP) is not its business."""

    def __init__(self, name: str, allowed: AllowList) -> None:
        self._name = name
        self._allowed = allowed
        self._notices = QuietLog(log)

    def __call__(self, transport: asyncio.BaseTransport) -> str | None:
        """Why the peer is refused; logged, but not for every connection of a peer that comes again and again."""
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            return None
        peer = peer_of(sock)
        if self._allowed.admits(peer):
            return None
        gids = ",".join(map(str, sorted(peer.gids)))
        who = f"process {peer.pid} of user {peer.uid}, groups {gids}"
        self._notices.log(logging.WARNING, f"{peer.uid} {gids}", f"{self._name}: refused {who}")
        return f"user {peer.uid} with groups {gids} may not connect to {self._name}"


def peer_of(sock: socket.socket) -> Peer:
    """Who connected; `sock` is a connected Unix socket, or what an event loop gives out for one."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid, _supplementary(sock) | {gid})


def _supplementary(sock: socket.socket) -> frozenset[int]:
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUP_BYTES)
    except OSError:
        # A kernel before 4.13, or a peer with more groups than fit: then its user and primary group must do.
        return frozenset()
    return frozenset(memoryview(packed).cast("I"))


def gateway_admission(config: BrokerConfig) -> Admission | None:
    """Who may call hooks: those of --allow-user and --allow-group; None where anybody may whom the socket lets in.

    Raises AccountError.
    """
    if not config.allow_user and not config.allow_group:
        return None
    return CredentialCheck("this socket", AllowList(user_ids(config.allow_user), group_ids(config.allow_group)))


def admin_admission() -> Admission:
    """Who may ask the admin socket: the user that we run as, and root, who could do as they like anyway."""
    return CredentialCheck("the admin socket", AllowList(frozenset({_ROOT, os.geteuid()})))


def user_id(user: str) -> int:
    """The number of a user. Raises AccountError for a name that nobody has."""
    try:
        return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise AccountError(f"no user {user!r} on this machine") from None


def group_id(group: str) -> int:
    """The number of a group. Raises AccountError for a name that none has."""
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise AccountError(f"no group {group!r} on this machine") from None


def user_ids(users: Iterable[str]) -> frozenset[int]:
    """The numbers of some users. Raises AccountError."""
    return frozenset(map(user_id, users))


def group_ids(groups: Iterable[str]) -> frozenset[int]:
    """The numbers of some groups. Raises AccountError."""
    return frozenset(map(group_id, groups))
