"""Says in a text what the MD5 of a bundle's name stands for: people know bundles and APIs, a gateway sends hashes."""

import re
from collections.abc import Mapping
from typing import Final

_HASH: Final = re.compile(r"(?<![\w/])[0-9a-f]{32}(?!\w)")
"""Where it is no part of a path."""


def annotated(text: str, names: Mapping[str, str]) -> str:
    """Return the text with each MD5 that is in `names` explained, in parentheses and once."""
    told: set[str] = set()

    def explain(found: re.Match[str]) -> str:
        digest = found[0]
        if digest in told or digest not in names:
            return digest
        told.add(digest)
        return f"{digest} ({names[digest]})"

    return _HASH.sub(explain, text) if names else text
