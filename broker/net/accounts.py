"""Users and groups of this machine, by name or number."""

import grp
import pwd
from collections.abc import Iterable

from tykpy.broker.errors import AccountError


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
