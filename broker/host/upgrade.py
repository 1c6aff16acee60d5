"""Replace the running program: a successor inherits the listening sockets and takes over once it serves.

Until then nothing changes for the old program; if the successor fails, the old one logs why and continues. Afterwards
the old one drains and exits.

`TYKPY_HANDOVER` names two inherited descriptors: a file in memory that says which listening sockets are inherited as
which descriptors, and a pipe that gets one byte when the successor serves. End of file without that byte means that it
never will.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tykpy.broker.catalog.description import Description
from tykpy.broker.errors import UpgradeError
from tykpy.broker.host.exits import ExitCode
from tykpy.broker.host.orphans import is_init
from tykpy.broker.net.sockets import FileId, ListeningSocket
from tykpy.broker.pool.process import OwnChild, describe_end, signals_blocked

log = logging.getLogger("tykpy.upgrade")

VARIABLE: Final = "TYKPY_HANDOVER"
READY: Final = b"R"
MARGIN: Final = 10.0
"""Seconds that a new program has beyond the time that its workers may take to be ready."""


class Handover:
    """What the new program has inherited, until it takes over."""

    def __init__(self, sockets: dict[str, ListeningSocket], baseline: Description, told: int) -> None:
        self.baseline = baseline
        """What the old program serves: bundles, and which of them have problems."""
        self._sockets = sockets
        self._told = told

    @classmethod
    def from_environment(cls) -> "Handover | None":
        """Return what this process inherited if it is to replace another; None if not. Raises UpgradeError."""
        value = os.environ.pop(VARIABLE, None)
        if value is None:
            return None
        try:
            memory, told = (int(number) for number in value.split(","))
            os.set_inheritable(told, False)
            with os.fdopen(memory, "rb") as file:
                document = json.load(file)
            sockets = {address: _adopt(address, *rest) for address, *rest in document["sockets"]}
            return cls(sockets, document["baseline"], told)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UpgradeError(f"{VARIABLE} does not name what an old program hands over: {error}") from error

    def take(self, address: str) -> ListeningSocket | None:
        """Return the inherited socket of an address; None if it is new."""
        return self._sockets.pop(address, None)

    def say_ready(self) -> None:
        """Tell the old program to go (it may be gone already), and close the sockets that were not taken."""
        try:
            os.write(self._told, READY)
        except BrokenPipeError:
            return
        finally:
            self.close()

    def close(self) -> None:
        """Close the sockets that were not taken."""
        if self._told >= 0:
            os.close(self._told)
            self._told = -1
        for listening in self._sockets.values():
            listening.release()
        self._sockets.clear()


def _adopt(address: str, descriptor: int, file: list[int] | None) -> ListeningSocket:
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    return ListeningSocket.inherited(sock, address, FileId(*file) if file is not None else None)


def own_command() -> list[str]:
    """Return the command that started this process, with the same Python."""
    return [sys.executable, *sys.orig_argv[1:]]


class Upgrade:
    """Starts a successor, one at a time, and waits until it serves or fails."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float, done: Callable[[int], None]) -> None:
        """`patience`: seconds until a successor must serve; `done` is called with its process number when it does."""
        self.last: dict[str, Any] | None = None
        """How the last try ended, for `tykpy status`."""
        self._loop = loop
        self._patience = patience + MARGIN
        self._done = done
        self._successor: _Successor | None = None

    def start(self, listening: Sequence[ListeningSocket], baseline: Description) -> None:
        """Start the successor with these sockets."""
        if is_init():
            self._failed("process 1 of a container ends it, and cannot be replaced; start a new container instead")
            return
        if self._successor is not None:
            log.warning("an upgrade is under way: process %d", self._successor.pid)
            return
        try:
            self._successor = _Successor(listening, baseline)
            self._watch(self._successor)
        except Exception as error:  # noqa: BLE001 (whatever it was, this program continues)
            self.close()
            self._failed(f"the new program cannot be started: {error}")
            return
        log.info("upgrading: process %d is to take over", self._successor.pid)

    def close(self) -> None:
        """End a successor that does not serve yet, as this program is told to stop."""
        if self._successor is not None:
            self._successor.end()
            self._forget(self._successor)

    def _watch(self, successor: "_Successor") -> None:
        self._loop.add_reader(successor.ready, self._on_news, successor)
        self._loop.add_reader(successor.pidfd, self._on_end, successor)
        successor.timer = self._loop.call_later(self._patience, self._too_late, successor)

    def _on_news(self, successor: "_Successor") -> None:
        self._loop.remove_reader(successor.ready)
        if os.read(successor.ready, 1) != READY:
            return  # it is about to end
        # It is no child to wait for, or to end: it outlives us.
        successor.process.returncode = 0
        self._forget(successor)
        self.last = {"ok": True, "pid": successor.pid}
        log.info("process %d has taken over", successor.pid)
        self._done(successor.pid)

    def _too_late(self, successor: "_Successor") -> None:
        successor.late = True
        successor.process.kill()

    def _on_end(self, successor: "_Successor") -> None:
        ending = describe_end(successor.process.wait(), ExitCode)
        self._forget(successor)
        words = f"did not serve within {self._patience:g} s" if successor.late else ending.words
        self._failed(f"the new program {words}; its log says more")

    def _failed(self, why: str) -> None:
        self.last = {"ok": False, "why": why}
        log.error("not upgraded, this program goes on: %s", why)

    def _forget(self, successor: "_Successor") -> None:
        if successor.timer is not None:
            successor.timer.cancel()
        for descriptor in (successor.ready, successor.pidfd):
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._successor = None


class _Successor:
    """The process that is to take over. Raises OSError if it cannot be started or watched; it does not run then."""

    def __init__(self, listening: Sequence[ListeningSocket], baseline: Description) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self.late = False
        """Whether the new program's time ran out."""
        sockets = [[one.address, one.socket.fileno(), one.file] for one in listening]
        document = json.dumps({"sockets": sockets, "baseline": [_outline(bundle) for bundle in baseline]})
        with contextlib.ExitStack() as inherited, contextlib.ExitStack() as undo:
            memory = os.memfd_create("tykpy-handover", os.MFD_CLOEXEC)
            inherited.callback(os.close, memory)
            os.write(memory, document.encode())
            os.lseek(memory, 0, os.SEEK_SET)
            self.ready, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, self.ready)
            inherited.callback(os.close, told)
            with signals_blocked():
                self.process = OwnChild(
                    own_command(),
                    pass_fds=(memory, told, *(one.socket.fileno() for one in listening)),
                    env={**os.environ, VARIABLE: f"{memory},{told}"},
                )
            undo.callback(self.end)
            self.pidfd = os.pidfd_open(self.process.pid)
            undo.pop_all()
        self.pid = self.process.pid

    def end(self) -> None:
        """Kill it and wait for its end."""
        self.process.kill()
        self.process.wait()


def _outline(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Supervisor.take_over` needs of a description."""
    hooks = [{"name": hook["name"], "shape": hook["shape"]} for hook in bundle["hooks"]]
    names = ("name", "path", "hashes", "version", "error", "faulty", "loaded_in", "workers")
    return {**{name: bundle[name] for name in names}, "hooks": hooks}
