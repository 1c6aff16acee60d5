"""`tykpy reload` and `tykpy scale`: what a running broker is asked to do with its workers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tykpy.broker.catalog import bundle_names
from tykpy.broker.errors import RpcError
from tykpy.client.rpc import RpcClient
from tykpy.commands.errors import CommandError

NO_CODE = ("UNAVAILABLE", "EXPIRED")
"""Codes of the way to the broker, and not of its answer."""


def reload(runtime_dir: Path, timeout: float) -> dict[str, Any]:
    """Have the broker load its bundles anew; returns what it says of them once they are served.

    Raises CommandError where it refuses, with every problem on a line of its own, or does not answer.
    """
    return dict(_ask(runtime_dir, timeout, "reload"))


def scale(runtime_dir: Path, workers: int, timeout: float) -> int:
    """Have the broker run so many workers from now on; returns that number.

    Raises CommandError where it refuses, or does not answer.
    """
    return int(_ask(runtime_dir, timeout, "scale", workers)["workers"])


def rows_of(answer: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Bundle, its name in the API definitions, APIs, what became of it, and its hooks, of a reload's answer."""
    for bundle in answer["bundles"]:
        yield *bundle_names.columns_of(bundle), bundle["change"], str(bundle["hooks"])


def problems_of(answer: Mapping[str, Any]) -> Iterator[str]:
    """What could not be loaded, and could not before either."""
    for bundle in answer["bundles"]:
        for problem in bundle["problems"]:
            yield bundle_names.explain(problem, [bundle])


def _ask(runtime_dir: Path, timeout: float, method: str, *params: Any) -> Any:
    path = runtime_dir / "admin.sock"
    try:
        with RpcClient(str(path), timeout) as client:
            return client.call(method, *params)
    except RpcError as error:
        if error.code in NO_CODE:
            hint = "is --runtime-dir the broker's own?"
            raise CommandError(f"no answer from a broker at {path} ({error.message}); {hint}") from error
        raise CommandError(f"{method} refused: {error.message}") from error
