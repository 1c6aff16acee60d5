"""Check that bundles can still be loaded, whatever the last one has replaced.

Libraries replace functions of the standard library for good reasons (gevent.monkey, freezegun, tracers), and bundles
may need what they replaced. So nothing is undone: a small bundle is loaded the way all are, and shows whether it works.
"""

import ast
import encodings.utf_8_sig  # noqa: F401 (the zygote imports it, and so not each worker: manifests are read with it)
import hashlib
import importlib
import io
import json
import os
import pathlib
import re
import struct
import sys
import zipfile
import zipimport
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import tyk.session  # noqa: F401 (for each worker, too: the sound bundle imports it, and most others)
from tykpy.bundles.errors import BundleError
from tykpy.bundles.files.archive import read_through
from tykpy.bundles.files.discovery import candidate_at, is_other_file, part_folders
from tykpy.bundles.files.versions import version_of
from tykpy.bundles.loading import MAIN_FILE, load_folder

_SOUND: Final = Path(__file__).with_name("sound")
"""A folder of one part, as a gateway makes it for an API with several bundles: most of the loader's code is used."""
_SOUND_ZIP: Final = Path(__file__).with_name("sound.zip")
_MODULES: Final[tuple[ModuleType, ...]] = (
    ast, hashlib, importlib, io, json, os, os.path, pathlib, re, struct, sys, zipfile, zipimport, zlib,
)  # fmt: skip
"""Modules of the standard library that loading depends on; there are more, and these are the ones in messages."""


def load_sound_bundle(*, archives: bool) -> None:
    """Load a bundle without faults, and forget it again. Raises what keeps it from being loaded.

    `archives`: read a ZIP, too, as other bundles are ZIPs.
    """
    candidate = candidate_at(_SOUND)
    if candidate is None or not candidate.looks_whole or not version_of(_SOUND):
        raise BundleError("it is not found", str(_SOUND))
    (folder,), _ = part_folders(_SOUND)
    is_other_file(folder / MAIN_FILE, b"")
    part = load_folder(candidate.name, folder, candidate.key)
    part.close()
    if part.error is not None:
        raise part.error
    if "sound" not in part.hooks:
        raise BundleError("its hook is not found", str(_SOUND))
    if archives:
        read_through(_SOUND_ZIP)


def functions_for_loading() -> dict[str, Callable[..., Any]]:
    """Return by their names the functions and classes that are told apart when one is replaced."""
    return {
        f"{module.__name__}.{name}": value
        for module in _MODULES
        for name, value in list(vars(module).items())
        if callable(value)
    }
