"""`tykpy hooks`: every bundle with its hooks, from a running broker or straight from a folder."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from broker.errors import RpcError
from broker.rpc_client import RpcClient
from commands.errors import CommandError

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


def describe_folder(folder: Path, unpacked: Path) -> Description:
    """What a worker would load from this folder; the plugins are imported, here and now."""
    from workers.store import BundleStore

    store = BundleStore([folder], unpacked)
    store.load_all()
    return store.describe()


def describe_folder_once(folder: Path) -> Description:
    """The same, with ZIPs unpacked into a folder that is removed again."""
    with tempfile.TemporaryDirectory(prefix="tykpy-hooks-") as unpacked:
        return describe_folder(folder, Path(unpacked))


def problems_of(description: Description) -> Iterator[str]:
    """Everything that could not be loaded, with file and line."""
    for bundle in description:
        for fault in ([bundle["error"]] if bundle["error"] else []) + bundle["faulty"]:
            yield f"bundle {bundle['name']}: {_place(fault)}{fault['message']}"


def rows_of(description: Description) -> Iterator[tuple[str, str, str, str, str]]:
    """Bundle, hook, type, shape and place of every hook."""
    for bundle in description:
        for hook in bundle["hooks"]:
            kind = "async " if hook["is_async"] else ""
            types = hook["hook_type"] or ", ".join(hook["listed"]) or "any"
            yield bundle["name"], hook["name"], types, f"{kind}({hook['shape']})", f"{hook['file']}:{hook['line']}"


def _place(fault: Mapping[str, Any]) -> str:
    if not fault["file"]:
        return ""
    return f"{fault['file']}:{fault['line']}: " if fault["line"] else f"{fault['file']}: "
