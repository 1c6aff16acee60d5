"""Create and check the runtime folder (sockets, embedded store, unpacked bundles), and give it to the broker's user.

It must be safe from other users, as OpenSSH requires of its files. A folder is as safe as every folder on the way to
it: whoever may write to one of them may rename what is in it. With the sticky bit (/tmp) they may not, so there the
next folder has to be ours.
"""

import errno
import grp
import logging
import os
import pwd
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from tykpy.broker.errors import ListenError
from tykpy.broker.net.addresses import ADMIN_SOCKET
from tykpy.broker.net.sockets import SocketOptions, group_of

log = logging.getLogger("tykpy.sockets")

FOLDER_MODE: Final = 0o700
"""Private, but for a socket that others may connect to."""
OUR_NAMES: Final = frozenset(
    {ADMIN_SOCKET, "tyk.sock", "unpacked", "saved", "storage.sqlite3", "storage.sqlite3-wal", "storage.sqlite3-shm"}
)
"""Files and folders that the broker and its workers create there."""
OUR_FOLDERS: Final = ("saved", "unpacked")
"""Those that contain code that workers run."""
PARENT_MODE: Final = 0o755
ROOT: Final = 0
MAX_LINKS: Final = 40
"""Most symbolic links on the way, as many as the kernel follows."""
_WHOLE_MAP: Final = 2**32 - 1
"""Number of users in the map of the outermost user namespace."""


def make_runtime_dir(path: Path, options: SocketOptions | None = None) -> None:
    """Create the folder for sockets with these permissions unless it exists; private, unless the sockets are not.

    A folder of root's is given to the sockets' owner, with what the broker left there before.
    Raises ListenError if it cannot be created, if others could replace its files, or if it is used for other things.
    """
    options = options or SocketOptions()
    gid = group_of(options)
    try:
        # The folders on the way first: nothing is created where others could replace it.
        _refuse_distrusted(path, path, options)
        _make(path, options, gid)
        _look_over(path, options, gid)
        if options.owner is not None and path.stat().st_uid == 0 != options.owner:
            _give_away(path, options.owner, -1 if gid is None else gid)
    except OSError as error:
        raise ListenError(f"runtime folder {path}: {error.strerror}") from error


def _make(path: Path, options: SocketOptions, gid: int | None) -> None:
    for parent in reversed(path.parents):
        if not parent.exists():
            parent.mkdir(mode=PARENT_MODE)
    try:
        path.mkdir(mode=FOLDER_MODE)
    except FileExistsError:
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(folder, -1, -1 if gid is None else gid)
        os.fchmod(folder, _mode_for(options))
    finally:
        os.close(folder)


def _refuse_distrusted(folder: Path, path: Path, options: SocketOptions) -> None:
    """Raise ListenError if others could have created or could replace what is at a path in the runtime folder."""
    owners = {os.geteuid()} | ({options.owner} if options.owner is not None else set())
    why = distrusted(path, owners)
    if why is not None:
        raise ListenError(
            f"runtime folder {folder} is not safe, {why}: plugins would run what others put there;"
            " give the broker a --runtime-dir of its own, or remove what is not its own"
        )


def _mode_for(options: SocketOptions) -> int:
    """Return the folder's mode: to connect to a socket is to write to it, and takes passing through its folder."""
    return FOLDER_MODE | (options.mode & (stat.S_IWGRP | stat.S_IWOTH)) >> 1


def _look_over(path: Path, options: SocketOptions, gid: int | None) -> None:
    status = path.stat()
    for name in sorted(OUR_NAMES & set(os.listdir(path))):
        _refuse_distrusted(path, path / name, options)
    for name in OUR_FOLDERS:
        if (path / name).is_dir():
            for entry in sorted(os.listdir(path / name)):
                _refuse_distrusted(path, path / name / entry, options)
    if not _lets_through(status, options, gid):
        log.warning("runtime folder %s keeps those out whom --socket-mode and --socket-group let in: chmod it", path)


def _lets_through(folder: os.stat_result, options: SocketOptions, gid: int | None) -> bool:
    """Say whether everybody that a socket admits can pass through its folder."""
    if folder.st_mode & stat.S_IXOTH:
        return True
    group_passes = folder.st_mode & stat.S_IXGRP and gid in (None, folder.st_gid)
    return not options.mode & stat.S_IWOTH and bool(group_passes or not options.mode & stat.S_IWGRP)


def _give_away(path: Path, uid: int, gid: int) -> None:
    """Give the folder to a user, from the inside out: while it is root's, nobody else can put links into it."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        strangers = sorted(set(os.listdir(folder)) - OUR_NAMES)
        if strangers or os.fstat(folder).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            used = f"holds {strangers[0]!r}" if strangers else "can be written by others"
            raise ListenError(f"runtime folder {path} is root's and {used}: give --user a --runtime-dir of its own")
        for _, folders, files, within in os.fwalk(".", topdown=False, dir_fd=folder):
            _chown(within, [*folders, *files], uid, gid)
        os.fchown(folder, uid, gid)
    finally:
        os.close(folder)


def _chown(folder: int, names: Iterable[str], uid: int, gid: int) -> None:
    for name in names:
        os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)


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
