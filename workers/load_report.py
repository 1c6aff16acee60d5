"""Tell the broker which bundle is being loaded, and with what result."""

from typing import Any, Final

import msgpack

from tykpy.bundles.load_observer import BundleSource, LoadReport
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.description import MAX_DESCRIBED, MAX_REPLACED, pieces_of
from tykpy.telemetry.log import Log

_log: Final = Log("tykpy.worker")


class ControlReport(LoadReport):
    """Writes load reports to the control socket."""

    def __init__(self, control: ControlSocket) -> None:
        self._control = control
        self._total = 0
        """Bytes of all descriptions so far."""

    def loading(self, source: BundleSource) -> None:
        """Report a bundle before any of its code runs. Raises ControlClosedError, like the other methods."""
        self._control.send("loading", source._asdict())

    def loaded(self, description: dict[str, Any]) -> None:
        """Send the description in pieces; hooks are left out if all bundles together have too many."""
        pieces = list(pieces_of(description))
        size = sum(len(msgpack.packb(piece)) for piece in pieces)
        if self._total + size > MAX_DESCRIBED:
            _log.warning("bundle %s: all bundles have more hooks than the broker can know", description["name"])
            pieces = list(pieces_of({**description, "hooks": [], "faulty": []}))
            size = 0
        self._total += size
        for piece in pieces:
            self._control.send("bundle", piece)

    def replaced(self, source: BundleSource, names: list[str]) -> None:
        """Report that the bundle replaced functions, with the first few names."""
        self._control.send("replaced", {**source._asdict(), "names": names[:MAX_REPLACED]})

    def gone(self, path: str) -> None:
        """Report that the file is not a bundle."""
        self._control.send("gone", {"path": path})
