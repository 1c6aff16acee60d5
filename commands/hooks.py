"""`tykpy hooks`: every bundle with its hooks, from a running broker or straight from a folder."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tykpy.broker.catalog import bundle_names
from tykpy.broker.catalog.bundle_names import BundleNames
from tykpy.broker.catalog.description import bundle_problems
from tykpy.broker.errors import RpcError
from tykpy.client.rpc import RpcClient
from tykpy.commands.errors import CommandError

Description = list[dict[str, Any]]


def ask_broker(runtime_dir: Path, method: str) -> Any:
    """Ask the running broker on its admin socket.

    Raises CommandError where no broker answers.
    """
    path = runtime_dir / "admin.sock"
    try:
        with RpcClient(str(path)) as client:
            return client.call(method)
    except (OSError, RpcError) as error:
        raise CommandError(f"no broker answers at {path} ({error}); is --runtime-dir the broker's own?") from error


def describe_broker(runtime_dir: Path) -> Description:
    """What the workers of the running broker have loaded.

    Raises CommandError where no broker answers.
    """
    description = ask_broker(runtime_dir, "hooks")
    if not isinstance(description, list):
        raise CommandError(f"the broker in {runtime_dir} answers something else than hooks; is it of another version?")
    return description


def describe_folder(
    folder: Path, unpacked: Path, public_key: Path | None = None, apis: Path | None = None
) -> Description:
    """What a worker would load from this folder; the plugins are imported, here and now.

    `apis`: the folder of API definitions.

    Raises CommandError where the folder or the public key cannot be used.
    """
    from tykpy.bundles.errors import KeyFileError
    from tykpy.bundles.files.signature import PublicKey
    from tykpy.bundles.registry import BundleStore
    from tykpy.ipc.text import why_unread

    try:
        key = PublicKey.read(public_key) if public_key is not None else None
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    try:
        os.listdir(folder)
    except OSError as error:
        raise CommandError(f"{folder} cannot be read: {why_unread(error)}") from error
    store = BundleStore([folder], unpacked, key)
    store.load_all()
    names = BundleNames(apis)
    names.refresh()
    return [{**bundle, **names.describe(bundle["hashes"])} for bundle in (*store.describe(), *store.unloaded())]


def describe_folder_once(folder: Path, public_key: Path | None = None, apis: Path | None = None) -> Description:
    """The same, with ZIPs unpacked into a folder that is removed again.

    What a worker would log of problems is in the description.
    """
    with _quiet(logging.getLogger("tykpy.worker")), tempfile.TemporaryDirectory(prefix="tykpy-hooks-") as unpacked:
        return describe_folder(folder, Path(unpacked), public_key, apis)


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def problems_of(description: Description) -> Iterator[str]:
    """Everything that could not be loaded, or not by every worker, with file and line."""
    for bundle in description:
        for problem in bundle_problems(bundle):
            yield bundle_names.explain(problem, [bundle])
        for problem in bundle.get("elsewhere", ()):
            yield f"loaded in {bundle['loaded_in']} of {bundle['workers']} workers, which get its calls: {problem}"


def notes_of(description: Description) -> Iterator[str]:
    """What is no problem, and worth to know: bundles that are served in another version than is there."""
    for bundle in description:
        if bundle.get("kept"):
            yield bundle_names.explain(f"bundle {bundle['name']} {bundle['kept']}", [bundle])


def refusals_of(description: Description) -> Iterator[str]:
    """Every hook that the broker does not run at the moment, or not for certain dispatches, and why."""
    for bundle in description:
        for hook in bundle["hooks"]:
            if "refused" in hook:
                yield f"bundle {bundle['name']}: hook {hook['name']} is {hook['refused']}"
            if "quarantined" in hook:
                what = f"{hook['quarantined']} different dispatches" if hook["quarantined"] > 1 else "one dispatch"
                yield (
                    f"bundle {bundle['name']}: hook {hook['name']} has {what} in quarantine, for having killed workers"
                    " (until new code is loaded: tykpy reload)"
                )


def bundle_rows_of(description: Description) -> Iterator[tuple[str, ...]]:
    """Bundle, its name in the API definitions, APIs, hooks and state of every bundle in the folder."""
    for bundle in description:
        state = f"not loaded: {bundle['why']}" if "why" in bundle else bundle["state"]
        yield *bundle_names.columns_of(bundle), str(len(bundle["hooks"])), state


def rows_of(description: Description) -> Iterator[tuple[str, str, str, str, str]]:
    """Bundle, hook, type, shape and place of every hook."""
    for bundle in description:
        for hook in bundle["hooks"]:
            kind = "async " if hook["is_async"] else ""
            types = hook["hook_type"] or ", ".join(hook["listed"]) or "any"
            yield bundle["name"], hook["name"], types, f"{kind}({hook['shape']})", f"{hook['file']}:{hook['line']}"
