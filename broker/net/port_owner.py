"""Find the process that owns an address or a lock, for messages; a process that cannot be seen is no error."""

import os
import re
import socket
from pathlib import Path
from typing import Final

from tykpy.broker.net.access import peer_of

_LISTEN_STATE: Final = "0A"
MAX_COMMAND: Final = 200
"""Longest command in a message, in characters."""
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://\S*")
_UNKNOWN: Final = "another process"


def unix_listener(connected: socket.socket) -> int:
    """Return the pid of the process at the other end of a connected Unix socket; 0 if it is in another namespace."""
    return peer_of(connected).pid


def tcp_listener(port: int) -> int:
    """Return the pid of the process that listens on a TCP port; 0 if none may be seen."""
    inodes = {inode for table in ("/proc/net/tcp", "/proc/net/tcp6") for inode in _listening_inodes(Path(table), port)}
    for process in Path("/proc").glob("[0-9]*"):
        if inodes & _socket_inodes(process / "fd"):
            return int(process.name)
    return 0


def lock_owner(descriptor: int) -> str:
    """Name the process that holds a lock (flock) on a descriptor's file, by pid and command, if it may be seen."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    # A process that waits for a lock has "->" in the second column.
    return describe(next((int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == place), 0))


def _listening_inodes(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == _LISTEN_STATE and int(row[1].rpartition(":")[2], 16) == port]


def _socket_inodes(folder: Path) -> set[str]:
    inodes = set()
    try:
        for descriptor in folder.iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except OSError:
        return inodes
    return inodes


def without_urls(command: str) -> str:
    """Replace the URLs of a command line by their schemes: any of them may hold a password."""
    return _URL.sub(r"\1://...", command)


def describe(pid: int) -> str:
    """Name a process by pid and command, as far as they may be seen."""
    if pid <= 0:
        return _UNKNOWN
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        command = command or Path(f"/proc/{pid}/comm").read_bytes().decode(errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({without_urls(command)[:MAX_COMMAND]})"
