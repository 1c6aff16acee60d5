"""Descriptions of bundles that a worker sends to the broker: in pieces, within bounds that both sides keep to."""

from collections.abc import Iterator
from typing import Any, Final

MAX_NAME: Final = 256
"""Longest name of a hook, in characters. The same limit applies to a file's name, which names its bundle."""
MAX_BUNDLE_NAME: Final = 2 * MAX_NAME + 1
"""Longest name of a bundle, in characters: the name of a part is prefixed with its bundle's name."""
MAX_PATH: Final = 4_096
"""Longest path of a bundle, in characters; the path identifies the bundle."""
MAX_FILE: Final = 1_000
"""Longest name of a file that contains a hook or a fault, in characters."""
MAX_MESSAGE: Final = 2_000
"""Longest description of a fault in a bundle or hook, in characters."""
MAX_REPLACED: Final = 8
"""Most functions of the standard library that are named as replaced by a bundle."""
MAX_KINDS: Final = 8
"""Most kinds of what a bundle has left running (threads, child processes); there are five."""
MAX_TIMEOUT: Final = 1e9
"""Longest `timeout` of a hook, in seconds: thirty years."""
MAX_HOOKS: Final = 4_096
"""Most hooks of a bundle, including faulty ones; a bundle with more is broken."""
PIECE_HOOKS: Final = 128
"""Most hooks, and most faulty hooks, in one message: less than 2 MiB even with the longest names and faults."""
MAX_DESCRIBED: Final = 16 * 1024 * 1024
"""Most bytes that a worker sends about all its bundles; beyond that, hooks of further bundles are left out."""
MAX_ACCEPTED: Final = 4 * MAX_DESCRIBED
"""Most bytes that the broker keeps about a worker's bundles: a hundred thousand bundles without hooks."""


def pieces_of(bundle: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Split a bundle's description into pieces with some of its hooks each; `more` says whether another follows."""
    hooks, faulty = bundle["hooks"], bundle["faulty"]
    longest = max(len(hooks), len(faulty), 1)
    for at in range(0, longest, PIECE_HOOKS):
        end = at + PIECE_HOOKS
        yield {**bundle, "hooks": hooks[at:end], "faulty": faulty[at:end], "more": end < longest}
