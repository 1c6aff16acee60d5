"""What the hooks of each API do: the columns of the table, and the bundles made of them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

EMBEDDED_DRIVER: Final = "python"
HOOKS: Final = Path(__file__).parent / "hooks"
FIVE: Final = tuple(f"header_{number}" for number in range(1, 6))


class HookColumn(NamedTuple):
    """One API, with a bundle of its own."""

    key: str
    """On the command line, and in the API's path."""
    title: str
    source: str
    """File in `hooks`, without its extension."""
    hooks: tuple[str, ...]
    """The API's Pre hooks: one call each."""
    marks: int
    """Headers that reach the upstream."""
    costs: bool
    """The hook takes time itself, so a server that leaves it out has nothing to show."""

    @property
    def bundle(self) -> str:
        """The bundle's name."""
        return f"{self.key}.zip"


COLUMNS: Final = (
    HookColumn("header", "header edit", "headers", ("header_1",), 1, costs=False),
    HookColumn("five", "five hooks, five calls", "headers", FIVE, 5, costs=False),
    HookColumn("chain", "five hooks, one `*` call", "headers", ("*",), 5, costs=False),
    HookColumn("wait", "20 ms waiting", "slow", ("wait_20ms",), 1, costs=True),
    HookColumn("cpu", "2 ms CPU", "slow", ("cpu_2ms",), 1, costs=True),
)


def write_bundles(folder: Path, columns: Sequence[HookColumn], driver: str) -> None:
    """Write each column's bundle into `folder`, unpacked where a gateway unpacks it."""
    for column in columns:
        target = folder / hashlib.md5(column.bundle.encode(), usedforsecurity=False).hexdigest()
        target.mkdir(parents=True)
        source = (HOOKS / f"{column.source}.py").read_text()
        if driver == EMBEDDED_DRIVER:
            source = source.replace("Pre", "Hook")  # the only decorator that works there
        manifest = {
            "file_list": ["middleware.py"],
            "custom_middleware": {"driver": driver, "pre": [{"name": name} for name in column.hooks]},
            "checksum": hashlib.md5(source.encode(), usedforsecurity=False).hexdigest(),
        }
        (target / "middleware.py").write_text(source)
        (target / "manifest.json").write_text(json.dumps(manifest))
