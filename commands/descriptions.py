"""Descriptions of bundles, from a running broker or straight from a folder, and what follows from them."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tykpy.broker.catalog import bundle_names
from tykpy.broker.catalog.bundle_names import BundleNames
from tykpy.broker.catalog.description import bundle_problems
from tykpy.bundles.errors import KeyFileError
from tykpy.bundles.files.signature import PublicKey
from tykpy.bundles.registry import BundleStore
from tykpy.commands.bundle.loading import Descriptions, describe_loaded
from tykpy.commands.errors import CommandError
from tykpy.commands.pool import ask_broker
from tykpy.ipc.text import why_unread


def of_broker(runtime_dir: Path) -> Descriptions:
    """Return what the workers of the running broker have loaded. Raises CommandError if no broker answers."""
    described = ask_broker(runtime_dir, "hooks")
    if not isinstance(described, list):
        raise CommandError(f"the broker in {runtime_dir} answers something else than hooks; is it of another version?")
    return described


def of_folder(
    folder: Path, public_key: Path | None = None, apis: Path | None = None, *, load: bool = True
) -> Descriptions:
    """Return what a worker would load from a folder; imports the plugins, in a process of their own.

    Without `load` nothing is imported: manifests, files, signatures and syntax are checked, and no hooks are found.
    `apis` is the folder of API definitions. What a worker would log about problems is in the descriptions.
    Raises CommandError if the folder or the public key cannot be used.
    """
    try:
        key = PublicKey.read(public_key) if public_key is not None else None
        os.listdir(folder)
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{folder} cannot be read: {why_unread(error)}") from error
    with _quiet(logging.getLogger("tykpy.worker")), tempfile.TemporaryDirectory(prefix="tykpy-hooks-") as unpacked:
        if load:
            found = describe_loaded(folder, public_key, Path(unpacked))
        else:
            store = BundleStore([folder], Path(unpacked), key, runs_code=False)
            store.load_all()
            found = [*store.describe(), *store.unloaded()]
        names = BundleNames(apis)
        names.refresh()
        return [{**bundle, **names.describe(bundle["hashes"])} for bundle in found]


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def problems_of(described: Descriptions) -> Iterator[str]:
    """Yield everything that could not be loaded, or not by every worker, with file and line."""
    for bundle in described:
        for problem in bundle_problems(bundle):
            yield bundle_names.explain(problem, [bundle])
        for problem in bundle.get("elsewhere", ()):
            yield f"loaded in {bundle['loaded_in']} of {bundle['workers']} workers, which get its calls: {problem}"


def notes_of(described: Descriptions) -> Iterator[str]:
    """Yield the bundles that are served in another version than their files have."""
    for bundle in described:
        if bundle.get("saved_copy"):
            yield bundle_names.explain(f"bundle {bundle['name']} {bundle['saved_copy']}", [bundle])


def refusals_of(described: Descriptions) -> Iterator[str]:
    """Yield every hook that the broker does not run at the moment, or not for certain dispatches, and why."""
    for bundle in described:
        for hook in bundle["hooks"]:
            if "refused" in hook:
                yield f"bundle {bundle['name']}: hook {hook['name']} is {hook['refused']}"
            if "quarantined" in hook:
                what = f"{hook['quarantined']} different dispatches" if hook["quarantined"] > 1 else "one dispatch"
                yield (
                    f"bundle {bundle['name']}: hook {hook['name']} has {what} in quarantine, for having killed workers"
                    " (until new code is loaded: tykpy reload)"
                )


def bundle_rows_of(described: Descriptions) -> Iterator[tuple[str, ...]]:
    """Yield bundle, its name in the API definitions, APIs, number of hooks and state, for every bundle."""
    for bundle in described:
        state = f"not loaded: {bundle['why']}" if "why" in bundle else bundle["state"]
        yield *bundle_names.columns_of(bundle), str(len(bundle["hooks"])), state


def hook_rows_of(described: Descriptions) -> Iterator[tuple[str, ...]]:
    """Yield bundle, hook, type, shape and place, for every hook."""
    for bundle in described:
        for hook in bundle["hooks"]:
            kind = "async " if hook["is_async"] else ""
            types = hook["hook_type"] or ", ".join(hook["listed"]) or "any"
            yield bundle["name"], hook["name"], types, f"{kind}({hook['shape']})", f"{hook['file']}:{hook['line']}"
