"""Load the code of one part of a bundle: manifest, verification, import, hooks. A failure is a BundleError."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from tyk.decorators import HookDefinition, LifespanDefinition
from tykpy.bundles import forked
from tykpy.bundles.bundle import BundlePart, FaultyHook
from tykpy.bundles.errors import BundleError, SignatureError
from tykpy.bundles.files.discovery import is_other_file
from tykpy.bundles.files.manifest import MANIFEST_NAME, ListedHook, Manifest, read_manifest
from tykpy.bundles.files.signature import PublicKey
from tykpy.bundles.files.verification import verify
from tykpy.bundles.hook import definition_of, known_type, lifespan_of, make_hook, source_of
from tykpy.bundles.imports.importer import ImportSpace
from tykpy.bundles.plugin_errors import bundle_failed
from tykpy.ipc.description import MAX_HOOKS, MAX_NAME
from tykpy.ipc.regular_file import read_regular
from tykpy.ipc.text import bounded

MAIN_FILE: Final = "middleware.py"
"""The file that the gateway's embedded Python loads."""

PRIVATE: Final = "tykpy_"
"""Prefix of the private packages that hold the bundles' modules."""

_NOT_IN_A_NAME: Final = re.compile(r"\W+")
_HASH_LENGTH: Final = 8


def load_folder(
    name: str, root: Path, key: str, public_key: PublicKey | None = None, runs_code: bool = True
) -> BundlePart:
    """Load a folder with a manifest; `key` identifies the bundle.

    With a `public_key` it must be signed by the key's owner. Without `runs_code` its files are compiled, and not
    imported. A folder that cannot be loaded is a part with an error.
    """
    try:
        if not (root / MANIFEST_NAME).is_file():
            raise BundleError(f"no {MANIFEST_NAME} in it (yet)", str(root))
        manifest = read_manifest(root / MANIFEST_NAME)
        sealed = verify(root, manifest, public_key)
        if not runs_code:
            return _compile_files(name, root, _entry_files(root, manifest)[0])
        return _load(name, root, manifest, key, sealed=sealed)
    except BaseException as error:  # noqa: BLE001 (plugin code may raise anything)
        return _failed_part(name, root, error)


def load_file(
    name: str, file: Path, key: str, public_key: PublicKey | None = None, runs_code: bool = True
) -> BundlePart:
    """Load a single `.py` file, a bundle without a manifest: all of its decorated hooks.

    A file that is no bundle (`conftest.py`) is not imported, and has no hooks; without `runs_code` no file is.
    """
    try:
        if is_other_file(file, read_regular(file)):
            return BundlePart(name, file.parent)
        if public_key is not None:
            raise SignatureError("a single file has no signature; make a bundle of it: tykpy bundle build", str(file))
        if not runs_code:
            return _compile_files(name, file.parent, [file.name])
        return _load(name, file.parent, Manifest(file_list=(file.name,)), key, single=True)
    except BaseException as error:  # noqa: BLE001 (plugin code may raise anything)
        return _failed_part(name, file.parent, error)


def _failed_part(name: str, root: Path, error: BaseException) -> BundlePart:
    return BundlePart(name, root, error=bundle_failed(error, str(root), str(root)))


def _compile_files(name: str, root: Path, files: Iterable[str]) -> BundlePart:
    for file in files:
        try:
            with warnings.catch_warnings(action="ignore"):
                compile(read_regular(root / file), str(root / file), "exec", dont_inherit=True)
        except Exception as error:
            raise bundle_failed(error, str(root), str(root / file)) from error
    return BundlePart(name, root)


def _private_prefix(name: str, key: str) -> str:
    """Return the package that holds a bundle's modules: the same in every worker, so that pickles travel."""
    digest = hashlib.md5(os.fsencode(key), usedforsecurity=False).hexdigest()[:_HASH_LENGTH]
    return f"{PRIVATE}{_NOT_IN_A_NAME.sub('_', name)}_{digest}"


def _load(
    name: str,
    root: Path,
    manifest: Manifest,
    key: str,
    *,
    single: bool = False,
    sealed: Mapping[str, bytes] | None = None,
) -> BundlePart:
    space = ImportSpace(_private_prefix(name, key), name, root, manifest.file_list, single, sealed)
    try:
        space.open()
    except ValueError as error:
        raise BundleError(str(error), str(root)) from error
    try:
        with space.own_builtins():
            loaded = _import_files(space, manifest, single)
        part = _collect(name, space, loaded, manifest)
        space.loaded()
        return part
    except BaseException:
        space.close()
        raise


def _import_files(space: ImportSpace, manifest: Manifest, single: bool) -> list[ModuleType]:
    """Import the files that a gateway would load, and the others while a hook of the manifest is missing."""
    if single:
        return [_import_file(space, file) for file in manifest.file_list]
    first, others = _entry_files(space.root, manifest)
    modules = [_import_file(space, file) for file in first]
    defined = {name for module in modules for name in _names_in(module)}
    if manifest.driver == "grpc" or any(entry.name not in defined for entry in manifest.hooks):
        added = tuple(folder + os.sep for folder in space.folders())
        others = [file for file in others if not str(space.root / file).startswith(added)]
        carried = space.carried()
        others = [file for file in others if file.partition("/")[0].partition(".")[0] not in carried]
        modules += [_import_file(space, file) for file in others]
    return modules


def _entry_files(root: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Split the Python files into those that are always loaded, and the others."""
    files = [file for file in manifest.file_list if file.endswith(".py")]
    if files and len(manifest.file_list) == 1:
        return files, []  # as the embedded driver, which then does not look for MAIN_FILE
    if (root / MAIN_FILE).is_file():
        return [MAIN_FILE], [file for file in files if file != MAIN_FILE]
    if not files:
        raise BundleError(f"no Python file in it: neither {MAIN_FILE} nor one in file_list", str(root))
    return files, []


def _import_file(space: ImportSpace, file: str) -> ModuleType:
    try:
        module = space.load(file)
    except BaseException as error:
        if forked.is_child:
            forked.end(error)
        raise bundle_failed(error, str(space.root), str(space.root / file)) from error
    if forked.is_child:
        forked.end()
    return module


def _collect(name: str, space: ImportSpace, loaded: list[ModuleType], manifest: Manifest) -> BundlePart:
    """Find the decorated functions: those of the loaded files in order, then those of the modules they imported."""
    part = BundlePart(name, space.root, listed=manifest.hooks, chained=manifest.chained, space=space)
    entries = set(map(id, loaded))
    others = [module for module in space.modules() if id(module) not in entries]
    wanted = {entry.name for entry in part.listed}
    found: dict[str, tuple[Callable[..., Any], HookDefinition]] = {}
    lifespan: dict[FunctionType, LifespanDefinition] = {}
    for module in loaded + others:
        for attribute, value in _names_in(module).items():
            definition = definition_of(value)
            if definition is not None:
                found.setdefault(definition.name, (value, definition))
                if type(attribute) is str and attribute in wanted:
                    found.setdefault(attribute, (value, definition))
            elif (moment := lifespan_of(value)) is not None:
                lifespan[value] = moment
    if len(found) > MAX_HOOKS:
        raise too_many_hooks(space.root.joinpath(*manifest.file_list[:1]))
    in_order = sorted(lifespan, key=lambda function: lifespan[function].order)
    part.on_start = tuple(function for function in in_order if lifespan[function].at_start)
    part.on_stop = tuple(function for function in reversed(in_order) if not lifespan[function].at_start)
    _make_hooks(part, found)
    _add_missing(part, loaded + others)
    return part


def _names_in(module: object) -> dict[Any, Any]:
    """Return what a module defines; empty for an object without names that it has put in its place in `sys.modules`."""
    try:
        return dict(vars(module))
    except BaseException:  # noqa: BLE001 (the object's own code)
        return {}


def _make_hooks(part: BundlePart, found: dict[str, tuple[Callable[..., Any], HookDefinition]]) -> None:
    """Make a hook of every function, under its own name and under the name that the manifest uses for it."""
    for name, (function, definition) in found.items():
        listed = tuple(entry for entry in part.listed if entry.name == name)
        try:
            part.hooks[name] = make_hook(function, definition, part.name, part.root, listed, name)
        except BaseException as error:  # noqa: BLE001 (a signature may be plugin code)
            reason = bundle_failed(error, str(part.root), str(part.root))
            part.faulty[name] = FaultyHook(name, known_type(definition), reason)


def _add_missing(part: BundlePart, modules: list[ModuleType]) -> None:
    """Report each hook of the manifest that was not found: what there is, and what to write."""
    for entry in part.listed:
        if entry.name in part.hooks or entry.name in part.faulty:
            continue
        error = _missing(part, entry, modules)
        part.faulty[entry.name] = FaultyHook(entry.name, entry.hook_type, error, missing=True)


def too_many_hooks(path: Path) -> BundleError:
    """Return the error for a bundle with more hooks than the broker keeps of one."""
    return BundleError(f"more than {MAX_HOOKS} hooks in one bundle: split it", str(path))


def _missing(part: BundlePart, entry: ListedHook, modules: Iterable[ModuleType]) -> BundleError:
    plain = next((names[entry.name] for names in map(_names_in, modules) if entry.name in names), None)
    name = bounded(entry.name, MAX_NAME)
    if callable(plain):
        file, line = source_of(plain)
        advice = f"from tyk.decorators import {entry.hook_type}, and write @{entry.hook_type} (or @Hook) above it"
        return BundleError(f"{name} is in the manifest, but is not a hook: {advice}", file, line)
    hooks = ", ".join(part.hooks) or "none"
    return BundleError(
        f"{name} is in the manifest ({entry.hook_type}), but no file defines it; hooks of {part.name}: {hooks}",
        str(part.root / MANIFEST_NAME),
    )
