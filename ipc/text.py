"""Prepare text for messages and logs: bound text that plugins or peers chose, and explain why a file cannot be read."""

import os
import pwd
from typing import Final

CUT: Final = "..."
"""Ends a text that was cut."""


def bounded(text: str, limit: int) -> str:
    """Return `text` with lone surrogates escaped, cut to `limit` characters, as a plain `str`.

    The result can be encoded as UTF-8. No code of a `str` subclass runs.
    """
    cut = str.__getitem__(text, slice(limit + 1))
    if not cut.isascii():
        cut = cut.encode(errors="backslashreplace").decode()
    return cut if len(cut) <= limit else cut[: limit - len(CUT)] + CUT


def access_needed(error: OSError) -> str:
    """Return which user needs access to a file if permissions are why it could not be read, else an empty string."""
    if not isinstance(error, PermissionError):
        return ""
    number = os.geteuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = str(number)
    return f": user {name} needs access to it"


def why_unread(error: OSError) -> str:
    """Return why a file cannot be read, and which user needs access to it if that is the reason."""
    return f"{error.strerror}{access_needed(error)}"


def wrong_field(error: Exception, whole: str) -> str:
    """Return what msgspec says is wrong, after the path of the field, or `whole` if it is about everything."""
    what, _, place = str(error).replace(" | null", "").partition(" - at ")
    return f"{place.replace('`', '').replace('$.', '').removeprefix('$') or whole}: {what}"
