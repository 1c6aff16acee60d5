"""Makes text that plugins or peers chose fit for messages and logs: always valid Unicode, never longer than agreed."""

from typing import Final

CUT: Final = "..."
"""Ends a text that was cut."""


def bounded(text: str, limit: int) -> str:
    """Return `text` with lone surrogates escaped, cut to `limit` characters, as a plain `str`.

    What comes back can be encoded as UTF-8. No code of a `str` subclass runs.
    """
    cut = str.__getitem__(text, slice(limit + 1))
    if not cut.isascii():
        cut = cut.encode(errors="backslashreplace").decode()
    return cut if len(cut) <= limit else cut[: limit - len(CUT)] + CUT
