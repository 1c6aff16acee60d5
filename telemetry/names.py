"""Explain MD5s of bundle names in messages: people know bundles and APIs by name, but a gateway sends hashes."""

import re
from collections.abc import Mapping
from typing import Final

_HASH: Final = re.compile(r"(?<![\w/])[0-9a-f]{32}(?!\w)")
"""An MD5 that is not part of a path or of a longer word."""


def annotated(text: str, names: Mapping[str, str]) -> str:
    """Return the text with the first occurrence of each MD5 in `names` explained in parentheses."""
    told: set[str] = set()

    def explain(found: re.Match[str]) -> str:
        digest = found[0]
        if digest in told or digest not in names:
            return digest
        told.add(digest)
        return f"{digest} ({names[digest]})"

    return _HASH.sub(explain, text) if names else text
