"""Check whether other users could have created or could replace a path, as OpenSSH checks its files.

A folder is as safe as every folder on the way to it: whoever may write to one of them may rename what is in it. With
the sticky bit (/tmp) they may not, so there the next folder has to be ours.
"""

import errno
import grp
import os
import pwd
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

ROOT: Final = 0
MAX_LINKS: Final = 40
"""Most symbolic links on the way, as many as the kernel follows."""
_WHOLE_MAP: Final = 2**32 - 1
"""Number of users in the map of the outermost user namespace."""


def distrusted(path: Path, owners: Collection[int]) -> str | None:
    """Say why users other than these could replace what is at an absolute path; None if they could not.

    A path that does not exist yet is safe. Raises OSError.
    """
    trusted = {ROOT, *owners, *_unmapped_users()}
    for place, status, is_end in _way(path):
        if status.st_uid not in trusted:
            return f"{place} belongs to another user (uid {status.st_uid})"
        is_shared = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and not is_end
        writers = None if is_shared else _writers(status, trusted)
        if writers:
            return f"{place} can be written by {writers}"
    return None


def _writers(status: os.stat_result, trusted: Collection[int]) -> str | None:
    """Say who else may write to a file or folder; a group with trusted members only does not count."""
    if stat.S_ISLNK(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        return None  # to write to a socket is to connect to it
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and not _has_only(status.st_gid, trusted):
        return f"group {status.st_gid}"
    return None


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Yield the folders and links on the way to a path, what the links lead to, and whether each is the end."""
    here, names, links = Path("/"), list(reversed(path.parts[1:])), 0
    yield here, here.lstat(), not names
    while names:
        name = names.pop()
        there = here.parent if name == ".." else here / name
        try:
            status = there.lstat()
        except FileNotFoundError:
            return
        yield there, status, not names and not stat.S_ISLNK(status.st_mode)
        if not stat.S_ISLNK(status.st_mode):
            here = there
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = Path(os.readlink(there))
        names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        here = Path("/") if target.is_absolute() else here


def _has_only(gid: int, users: Collection[int]) -> bool:
    if gid == ROOT:
        return True
    try:
        named = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        named = set()
    members = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid or user.pw_name in named}
    return members <= set(users) and (bool(members) or gid == os.getegid())


def _unmapped_users() -> set[int]:
    """Return the user that stands for all users outside of this user namespace, where there are any."""
    try:
        if int(Path("/proc/self/uid_map").read_text().split()[2]) == _WHOLE_MAP:
            return set()
        return {int(Path("/proc/sys/fs/overflowuid").read_text())}
    except (OSError, ValueError, IndexError):
        return set()
