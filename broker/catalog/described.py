"""The bundles of one worker, put together from the pieces in which it describes them."""

from typing import Any

from tykpy.ipc.description import MAX_ACCEPTED, MAX_HOOKS
from tykpy.ipc.errors import ControlCorruptError


class Described:
    """Descriptions by path. What a worker tells takes a bounded amount of memory, whatever it is."""

    def __init__(self) -> None:
        self._bundles: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._begun: dict[str, Any] | None = None
        self._begun_size = 0

    @property
    def bundles(self) -> list[dict[str, Any]]:
        """Those that are complete."""
        return list(self._bundles.values())

    def add(self, piece: dict[str, Any], size: int) -> dict[str, Any] | None:
        """Take a piece of `size` bytes; returns the bundle when it is complete.

        Raises ControlCorruptError for what no worker says.
        """
        begun, path = self._begun or {**piece, "hooks": [], "faulty": []}, piece["path"]
        begun["hooks"] += piece["hooks"]
        begun["faulty"] += piece["faulty"]
        self._begun, self._begun_size = begun, self._begun_size + size
        count = len(begun["hooks"]) + len(begun["faulty"])
        if path != begun["path"] or count > MAX_HOOKS or self._total + self._begun_size > MAX_ACCEPTED:
            raise ControlCorruptError(f"a description of {count} hooks that does not belong to those before it")
        return None if piece["more"] else self._complete(begun)

    def _complete(self, bundle: dict[str, Any]) -> dict[str, Any]:
        path, size = bundle["path"], self._begun_size
        self._total += size - self._sizes.get(path, 0)
        del bundle["more"]
        self._bundles[path], self._sizes[path] = bundle, size
        self._begun, self._begun_size = None, 0
        return bundle
