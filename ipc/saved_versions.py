"""Where the broker and its workers find the files of saved bundle versions.

SAVED/index.json           what is served: {path of a bundle: its version}; the broker writes it
SAVED/<copy_name>/<name>   the files of one version of one bundle; the worker that loaded it made them
"""

import hashlib
from typing import Final

INDEX: Final = "index.json"
ASIDE: Final = "."
"""Begins the names of folders that are being made or removed."""

_DIGITS: Final = 24


def copy_name(path: str, version: str) -> str:
    """Return the name of the folder for one version of the bundle that is described with this path."""
    return hashlib.sha256(f"{path}\0{version}".encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
