"""Listening sockets: addresses, permissions, stale socket files, and sockets inherited from systemd."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

from tykpy.broker.errors import ListenError
from tykpy.broker.net.access import group_id
from tykpy.broker.net.addresses import name_of, parse_tcp, parse_unix, scheme_of
from tykpy.broker.net.port_owner import describe, lock_owner, tcp_listener, unix_listener

log = logging.getLogger("tykpy.sockets")

BACKLOG: Final = 1024
FIRST_INHERITED_FD: Final = 3
"""sd_listen_fds(3): inherited sockets start here."""
_PROBE_TIMEOUT: Final = 1.0
"""Seconds: a listener whose queue is full does not refuse a connection, it does not answer."""
LOCK_PATIENCE: Final = 3.0
"""Longest wait for the lock on a folder, in seconds; brokers hold it for milliseconds, or `_PROBE_TIMEOUT`."""
_LOCK_RETRY: Final = 0.02
"""Seconds between two tries to take the lock."""


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Permissions of a Unix socket; meaningless for TCP."""

    mode: int = 0o600
    group: str | None = None
    """The file's group, a name or number."""
    owner: int | None = None
    """The file's owner, a user number; None: our own user."""


class FileId(NamedTuple):
    """The identity of a file, whatever its name is now."""

    device: int
    inode: int


class SocketFile:
    """The file of a Unix socket that this process may remove.

    The inode is kept open: otherwise its number could be given to the socket that another process binds in its place.
    """

    def __init__(self, path: Path) -> None:
        """Take the socket that is at `path` now. Raises OSError, or ListenError if something else is there."""
        self.path = path
        self._descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        self.id = FileId(status.st_dev, status.st_ino)
        if not stat.S_ISSOCK(status.st_mode):
            self.release()
            raise ListenError(f"{path} was replaced by something else while it was opened")

    @property
    def same(self) -> str:
        """A path of the file at which nobody can put anything else."""
        return f"/proc/self/fd/{self._descriptor}"

    @classmethod
    def inherited(cls, path: Path, known: FileId) -> Self | None:
        """Take the file of an old program; None if something else has taken its place."""
        try:
            file = cls(path)
        except (OSError, ListenError):
            return None
        if known == file.id:
            return file
        file.release()
        return None

    def release(self) -> None:
        """Leave the file to another process."""
        os.close(self._descriptor)

    def unlink_if_same(self) -> None:
        """Remove the file if it is still at its path; the caller has locked the folder. Raises OSError."""
        status = self.path.lstat()
        if self.id == (status.st_dev, status.st_ino):
            self.path.unlink()

    def remove(self) -> None:
        """Remove the file unless something else has taken its place; locks the folder."""
        try:
            with _locked(self.path.parent):
                self.unlink_if_same()
        except FileNotFoundError:
            return
        except (OSError, ListenError) as error:
            # Opened as root, before --user; or locked. Nobody listens there any more, and the next broker replaces it.
            why = "its folder is not ours to change" if isinstance(error, PermissionError) else str(error)
            log.info("socket %s stays: %s", self.path, why)
        finally:
            self.release()


class ListeningSocket:
    """A socket that listens. An event loop may use `socket`; `close` must be called all the same."""

    def __init__(self, sock: socket.socket, address: str, file: SocketFile | None = None) -> None:
        self.socket = sock
        self.address = address
        """As it can be dialled, with the actual port."""
        self._file = file

    @classmethod
    def inherited(cls, sock: socket.socket, address: str, file: FileId | None) -> Self:
        """Take a socket that an old program opened; `file`: the socket's file if it is ours to remove."""
        sock.setblocking(False)
        return cls(sock, address, SocketFile.inherited(Path(sock.getsockname()), file) if file is not None else None)

    @property
    def file(self) -> FileId | None:
        """The identity of its file, if that is ours to remove."""
        return self._file.id if self._file is not None else None

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return self.socket.family == socket.AF_UNIX

    def release(self) -> None:
        """Close it and leave its file to the other process that listens there."""
        self.socket.close()
        file, self._file = self._file, None
        if file is not None:
            file.release()

    def close(self) -> None:
        """Close it, and remove its file unless somebody has replaced it."""
        self.socket.close()
        file, self._file = self._file, None
        if file is not None:
            file.remove()


def listen(address: str, options: SocketOptions | None = None) -> ListeningSocket:
    """Listen on `unix:///path`, `unix:path`, `tcp://host:port` or `tls://host:port`, or take its inherited socket.

    Raises AddressError if it is not an address, and ListenError without permission or if it is in use (by whom).
    """
    inherited = _inherited().pop(name_of(address), None)
    if inherited is not None:
        return ListeningSocket(inherited, address)
    if address.startswith("unix:"):
        return _listen_unix(address, parse_unix(address), options or SocketOptions())
    return _listen_tcp(address, *parse_tcp(address, scheme_of(address)))


# Unix


def _listen_unix(address: str, path: Path, options: SocketOptions) -> ListeningSocket:
    gid = group_of(options)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path.parent):
            _remove_stale(address, path)
            sock.bind(os.fspath(path))
            file = SocketFile(path)
            try:
                # Nobody can connect before listen(), so the permissions are right for everybody.
                _set_permissions(file, options, gid)
                sock.listen(BACKLOG)
            except BaseException:
                try:
                    file.unlink_if_same()
                finally:
                    file.release()
                raise
    except OSError as error:
        sock.close()
        raise ListenError(f"{address}: {error.strerror or error}") from error
    except ListenError:
        sock.close()
        raise
    sock.setblocking(False)
    return ListeningSocket(sock, address, file)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder of a socket to replace or remove its file. Raises ListenError naming who has locked it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    give_up = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise ListenError(
                    f"folder {folder} is locked (flock) by {lock_owner(descriptor)}: end it, or use another folder"
                ) from None
            time.sleep(_LOCK_RETRY)
        else:
            return


def _remove_stale(address: str, path: Path) -> None:
    """Remove a socket file that nobody listens on. Raises ListenError for anything else in its place."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{address}: {path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except (TimeoutError, BlockingIOError):
            raise ListenError(f"{address} is in use by a process that does not accept connections") from None
        owner = unix_listener(probe)
        raise ListenError(f"{address} is in use by {describe(owner)}", owner)


def _set_permissions(file: SocketFile, options: SocketOptions, gid: int | None) -> None:
    """Set permissions through the file's descriptor: others who may write to the folder could replace the socket."""
    # Before the owner: changing another user's file takes root's powers.
    os.chmod(file.same, options.mode)
    if options.owner is not None or gid is not None:
        _give(file, -1 if options.owner is None else options.owner, -1 if gid is None else gid)


def _give(file: SocketFile, uid: int, gid: int) -> None:
    try:
        os.chown(file.same, uid, gid)
    except PermissionError as error:
        owner = f"user {uid}" if uid >= 0 else f"group {gid}"
        raise ListenError(
            f"{file.path} cannot be given to {owner}, we are user {os.geteuid()}: {error.strerror}"
        ) from error


def group_of(options: SocketOptions) -> int | None:
    """Return the number of the group, if there is one. Raises ConfigError."""
    return None if options.group is None else group_id(options.group)


# TCP


def _listen_tcp(address: str, host: str, port: int) -> ListeningSocket:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ListenError(f"{address}: {error.strerror}") from error
    family, kind, protocol, _, target = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            owner = tcp_listener(port)
            raise ListenError(f"{address} is in use by {describe(owner)}", owner) from error
        raise ListenError(f"{address}: {error.strerror}") from error
    sock.setblocking(False)
    shown = f"[{host}]" if ":" in host else host
    return ListeningSocket(sock, f"{scheme_of(address)}://{shown}:{sock.getsockname()[1]}")


# systemd


@functools.cache
def _inherited() -> dict[str, socket.socket]:
    return inherited_sockets(os.environ)


def inherited_sockets(environ: "os._Environ[str] | dict[str, str]") -> dict[str, socket.socket]:
    """Return the sockets that systemd passed to this process (sd_listen_fds(3)), by path or `host:port`.

    The variables are removed from `environ`, so that no child takes them for its own.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    return dict(map(_adopt, range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + int(count))))


def _adopt(descriptor: int) -> tuple[str, socket.socket]:
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    name = sock.getsockname()
    return name if sock.family == socket.AF_UNIX else f"{name[0]}:{name[1]}", sock
