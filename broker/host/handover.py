"""What an old program hands to the new one that takes its place, and how the new one says that it is ready.

`TYKPY_HANDOVER` names two inherited descriptors: a file in memory that says which listening sockets are inherited as
which descriptors, and a pipe that gets one byte when the new program serves. Its end of file without that byte says
that it never will.
"""

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from tykpy.broker.catalog import bundle_report
from tykpy.broker.errors import UpgradeError
from tykpy.broker.net.sockets import FileId, ListeningSocket

VARIABLE: Final = "TYKPY_HANDOVER"
READY: Final = b"R"


class Offer(NamedTuple):
    """The old program's side, ready to be inherited; `close` it once the new program runs."""

    environment: dict[str, str]
    descriptors: tuple[int, ...]
    ready: int
    """Readable when the new program serves, or is gone."""

    @classmethod
    def make(cls, listening: Sequence[ListeningSocket], baseline: bundle_report.Description) -> Self:
        """Offer these sockets, and say what is served now. Raises OSError."""
        sockets = [[one.address, one.socket.fileno(), one.file] for one in listening]
        document = json.dumps({"sockets": sockets, "baseline": [_outline(bundle) for bundle in baseline]})
        with contextlib.ExitStack() as undo:
            memory = os.memfd_create("tykpy-handover", os.MFD_CLOEXEC)
            undo.callback(os.close, memory)
            os.write(memory, document.encode())
            os.lseek(memory, 0, os.SEEK_SET)
            ready, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.pop_all()
        own = (memory, told)
        return cls({VARIABLE: f"{memory},{told}"}, (*own, *(one.socket.fileno() for one in listening)), ready)

    def close(self) -> None:
        """Close what only the new program needs; the sockets stay open."""
        for descriptor in self.descriptors[:2]:
            os.close(descriptor)


class Handover:
    """The new program's side."""

    def __init__(self, sockets: dict[str, ListeningSocket], baseline: bundle_report.Description, told: int) -> None:
        self.baseline = baseline
        """What the old program serves: bundles, and which of them have problems."""
        self._sockets = sockets
        self._told = told

    @classmethod
    def from_environment(cls) -> "Handover | None":
        """What this process was handed, if it is to take another's place. Raises UpgradeError."""
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
        """The inherited socket of this address; None: it is a new one."""
        return self._sockets.pop(address, None)

    def say_ready(self) -> None:
        """Tell the old program that it can go; it may be gone already. Addresses that nobody took are given up."""
        try:
            os.write(self._told, READY)
        except BrokenPipeError:
            return
        finally:
            self.close()

    def close(self) -> None:
        """Give up what was not taken."""
        if self._told >= 0:
            os.close(self._told)
            self._told = -1
        for listening in self._sockets.values():
            listening.release()
        self._sockets.clear()


def _adopt(address: str, descriptor: int, file: list[int] | bool | None) -> ListeningSocket:
    os.set_inheritable(descriptor, False)
    known = FileId(*file) if isinstance(file, list) else bool(file)
    return ListeningSocket.inherited(socket.socket(fileno=descriptor), address, known)


def _outline(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """What `Supervisor.take_over` needs of a description."""
    hooks = [{"name": hook["name"], "shape": hook["shape"]} for hook in bundle["hooks"]]
    names = ("name", "path", "hashes", "version", "error", "faulty", "loaded_in", "workers")
    return {**{name: bundle[name] for name in names}, "hooks": hooks}
