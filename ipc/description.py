"""What a worker tells the broker about its bundles: in pieces, and within bounds that both sides keep to."""

from collections.abc import Iterator
from typing import Any, Final

MAX_NAME: Final = 256
"""Characters of a hook's name. A file's name, which names its bundle, has at most as many."""
MAX_BUNDLE_NAME: Final = 2 * MAX_NAME + 1
"""Characters: the name of a part has its bundle's in front."""
MAX_PATH: Final = 4_096
"""Characters of a bundle's path, which tells bundles apart."""
MAX_FILE: Final = 1_000
"""Characters of the name of a file that a hook or a fault is in."""
MAX_MESSAGE: Final = 2_000
"""Characters of what is wrong with a bundle or hook."""
MAX_REPLACED: Final = 8
"""Functions that a bundle has replaced in the standard library, as far as they are named."""
MAX_TIMEOUT: Final = 1e9
"""Seconds of a hook's `timeout`: thirty years."""
MAX_HOOKS: Final = 4_096
"""Hooks of one bundle, the faulty ones included; with more it is broken."""
PIECE_HOOKS: Final = 128
"""Hooks in one message, and as many faulty ones: less than 2 MiB of the longest names and faults."""
MAX_DESCRIBED: Final = 16 * 1024 * 1024
"""Bytes that a worker tells about all its bundles; beyond, the hooks of further bundles are left out."""
MAX_ACCEPTED: Final = 4 * MAX_DESCRIBED
"""Bytes that the broker keeps of a worker's bundles: without hooks, a hundred thousand bundles."""


def pieces_of(bundle: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Split a bundle's description: each piece has some of its hooks; `more` says whether another follows."""
    hooks, faulty = bundle["hooks"], bundle["faulty"]
    longest = max(len(hooks), len(faulty), 1)
    for at in range(0, longest, PIECE_HOOKS):
        end = at + PIECE_HOOKS
        yield {**bundle, "hooks": hooks[at:end], "faulty": faulty[at:end], "more": end < longest}
