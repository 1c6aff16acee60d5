"""Listening sockets: addresses, permissions, stale socket files, and sockets that systemd opened for us."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import re
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.accounts import group_id
from broker.errors import AccountError, ListenError
from broker.holders import tcp_holder, unix_holder

log = logging.getLogger("tykpy.sockets")

BACKLOG: Final = 1024
MAX_UNIX_PATH: Final = 107
"""Bytes of a Unix socket's path (Linux's sun_path without its zero)."""
FIRST_INHERITED_FD: Final = 3
"""sd_listen_fds(3): inherited sockets start here."""
_PROBE_TIMEOUT: Final = 1.0
"""Seconds; a listener whose queue is full does not refuse, it does not answer."""
_TCP: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:]*)):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Permissions of a Unix socket; for TCP they mean nothing."""

    mode: int = 0o600
    group: str | None = None
    """Name or number."""
    owner: int | None = None
    """User; None: who we are."""


class ListeningSocket:
    """A socket that listens; `socket` may be handed to an event loop, `close` is still ours to call."""

    def __init__(self, sock: socket.socket, address: str, path: Path | None = None) -> None:
        self.socket = sock
        self.address = address
        """As it can be dialled: with the port that was really taken."""
        self._path = path
        self._identity = _identity(path) if path is not None else None

    @classmethod
    def inherited(cls, sock: socket.socket, address: str, *, owns_file: bool) -> "ListeningSocket":
        """A socket that another process has opened; `owns_file`: its file is ours to remove from now on."""
        sock.setblocking(False)
        path = Path(sock.getsockname()) if owns_file and sock.family == socket.AF_UNIX else None
        return cls(sock, address, path)

    @property
    def owns_file(self) -> bool:
        """Whether its file is ours to remove."""
        return self._path is not None

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return self.socket.family == socket.AF_UNIX

    def release(self) -> None:
        """Close it and leave its file: another process listens there."""
        self._path = None
        self.socket.close()

    def close(self) -> None:
        """Close it, and remove its file unless that is somebody else's by now."""
        self.socket.close()
        path, self._path = self._path, None
        if path is not None and self._identity is not None and _identity(path) == self._identity:
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                # Opened as root, before --user. Nobody listens there any more, and the next one replaces it.
                log.info("socket %s stays: its folder is not ours to change", path)


def listen(address: str, options: SocketOptions | None = None) -> ListeningSocket:
    """Listen on `unix:///path`, `unix:path`, `tcp://host:port` or `tls://host:port`, or take its inherited socket.

    Raises ListenError: not an address, no permission, or in use (by whom).
    """
    inherited = _inherited().pop(_name_of(address), None)
    if inherited is not None:
        return ListeningSocket(inherited, address)
    if address.startswith("unix:"):
        return _listen_unix(address, parse_unix(address), options or SocketOptions())
    return _listen_tcp(address, *parse_tcp(address, _scheme(address)))


# Addresses


def parse_unix(address: str) -> Path:
    """The path of `unix:///path` or `unix:path`; raises ListenError."""
    path = address.removeprefix("unix:")
    path = path.removeprefix("//") if path.startswith("//") else path
    if not path or path.startswith("\0"):
        raise ListenError(f"{address}: no path; write unix:///path")
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise ListenError(f"{address}: the path is longer than {MAX_UNIX_PATH} bytes")
    return Path(path)


def parse_tcp(address: str, scheme: str = "tcp") -> tuple[str, int]:
    """Host and port of `tcp://host:port`, or of another scheme; raises ListenError."""
    match = _TCP.fullmatch(address.removeprefix(f"{scheme}://"))
    if not address.startswith(f"{scheme}://") or match is None or int(match["port"]) > 65_535:
        raise ListenError(f"{address!r} is not an address: write unix:///path, tcp://host:port or tls://host:port")
    return match["v6"] or match["host"] or "", int(match["port"])


def _scheme(address: str) -> str:
    return "tls" if address.startswith("tls://") else "tcp"


def _name_of(address: str) -> str:
    """What an inherited socket of this address calls itself."""
    if address.startswith("unix:"):
        return os.path.abspath(parse_unix(address))
    host, port = parse_tcp(address, _scheme(address))
    return f"{host}:{port}"


# Unix


def _listen_unix(address: str, path: Path, options: SocketOptions) -> ListeningSocket:
    gid = group_of(options)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path.parent):
            _remove_stale(address, path)
            sock.bind(os.fspath(path))
            listening = ListeningSocket(sock, address, path)
            try:
                # Nobody can connect before listen(), so nobody ever meets the wrong permissions.
                _set_permissions(path, options, gid)
                sock.listen(BACKLOG)
            except BaseException:
                listening.close()
                raise
    except OSError as error:
        sock.close()
        raise ListenError(f"{address}: {error.strerror or error}") from error
    except ListenError:
        sock.close()
        raise
    sock.setblocking(False)
    return listening


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time looks for a stale socket and replaces it; the lock is on the folder, so it leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(address: str, path: Path) -> None:
    """Remove a socket file that nobody listens on; raises ListenError for anything else in its place."""
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
        raise ListenError(f"{address} is in use by {unix_holder(probe)}")


def _set_permissions(path: Path, options: SocketOptions, gid: int | None) -> None:
    """Through a descriptor: whoever may write to the folder could put something else in the socket's place."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise ListenError(f"{path} was replaced by something else while it was opened")
        same = f"/proc/self/fd/{descriptor}"
        # Before the owner: nobody else's file can be changed without root's powers.
        os.chmod(same, options.mode)
        if options.owner is not None or gid is not None:
            _give(path, same, -1 if options.owner is None else options.owner, -1 if gid is None else gid)
    finally:
        os.close(descriptor)


def _give(path: Path, same: str, uid: int, gid: int) -> None:
    try:
        os.chown(same, uid, gid)
    except PermissionError as error:
        owner = f"user {uid}" if uid >= 0 else f"group {gid}"
        raise ListenError(f"{path} cannot be given to {owner}, we are user {os.geteuid()}: {error.strerror}") from error


def group_of(options: SocketOptions) -> int | None:
    """The number of their group, if they have one. Raises ListenError."""
    try:
        return None if options.group is None else group_id(options.group)
    except AccountError as error:
        raise ListenError(str(error)) from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
            raise ListenError(f"{address} is in use by {tcp_holder(port)}") from error
        raise ListenError(f"{address}: {error.strerror}") from error
    sock.setblocking(False)
    shown = f"[{host}]" if ":" in host else host
    return ListeningSocket(sock, f"{_scheme(address)}://{shown}:{sock.getsockname()[1]}")


# systemd


@functools.cache
def _inherited() -> dict[str, socket.socket]:
    return inherited_sockets(os.environ)


def inherited_sockets(environ: "os._Environ[str] | dict[str, str]") -> dict[str, socket.socket]:
    """Sockets that systemd handed to this very process (sd_listen_fds(3)), by path or `host:port`.

    The variables are taken out of `environ`, so that no child believes them to be its own.
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
