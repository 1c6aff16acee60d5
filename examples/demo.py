"""`make run`: a broker with the example bundle, a gateway's calls through its socket, and what each hook changed.

Ends with 0 when every call did what the bundle says.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.client.grpc import GrpcClient
from tykpy.commands.call import call_hook, send_event
from tykpy.commands.changes import Change
from tykpy.commands.objects import CallDescription, build_event, build_object

BUNDLES: Final = Path(__file__).parent / "bundles"
TYKPY: Final = Path(sys.executable).parent / "tykpy"
WORKERS: Final = 2
START_LIMIT: Final = 30.0
"""Seconds until the broker must be ready."""
SIGNS: Final = {"+": "green", "-": "red", "~": "yellow"}

BUNDLE: Final[dict[str, Any]] = {"bundle": "example", "spec": {"APIID": "demo"}}
JSON_POST: Final[dict[str, Any]] = {"method": "POST", "url": "/pets?debug=1", "body": b'{"name": "Rex"}'}
CALLS: Final[list[tuple[str, dict[str, Any], str]]] = [
    ("AddRequestId", {"hook_type": "Pre"}, "request.set_headers['X-Request-Id']"),
    (
        "RefuseOldClients",
        {"hook_type": "Pre", "headers": [("X-Client-Version", "1")]},
        "request.return_overrides.response_code",
    ),
    ("CheckToken", {"hook_type": "CustomKeyCheck", "headers": [("Authorization", "gold-token")]}, "session.alias"),
    ("CheckToken", {"hook_type": "CustomKeyCheck"}, "request.return_overrides.response_code"),
    ("TellUpstreamWho", {"hook_type": "PostKeyAuth", "metadata": [("owner", "Rex")]}, "request.set_headers['X-Owner']"),
    ("StampBody", {"hook_type": "Post", **JSON_POST}, "request.raw_body"),
    ("LookUpRegion", {"hook_type": "Post", **JSON_POST}, "request.set_headers['X-Region']"),
    (
        "HideServer",
        {"hook_type": "Response", "response_headers": [("Server", "secret/1.0")], "response_body": b"{}"},
        "response.headers['X-Handled-By']",
    ),
    ("*", {"hook_type": "Post", **JSON_POST}, "request.set_headers['X-Region']"),
]
"""Hook, what the gateway says, and a field that must have changed."""


def main() -> int:
    """Run the demo; returns its exit code."""
    console = Console(highlight=False)
    with running_broker() as (address, log), GrpcClient(address) as client:
        console.print(
            f"[bold]tykpy broker --workers {WORKERS} --bundles examples/bundles[/] listens on {address}\n",
            soft_wrap=True,
        )
        complete = [show_call(console, client, *call) for call in CALLS]
        show_event(console, client)
        console.print(f"\nThe broker's log:\n{log.read_text()}", style="dim", markup=False, soft_wrap=True)
    console.print("all calls did what the bundle says" if all(complete) else "[red]a call did not do what it should")
    return 0 if all(complete) else 1


@contextmanager
def running_broker() -> Iterator[tuple[str, Path]]:
    """Start the broker as a user would, wait until it says that its workers are ready, and stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tykpy-demo-"))
    log = folder / "broker.log"
    flags = ["--runtime-dir", str(folder), "--workers", str(WORKERS), "--bundles", str(BUNDLES)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("wb") as output:
        ready.bind(str(folder / "notify"))
        ready.settimeout(START_LIMIT)
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        broker = subprocess.Popen([TYKPY, "broker", *flags], stderr=output, env=environment)
        try:
            while f"{WORKERS} of {WORKERS}" not in ready.recv(4096).decode():
                pass
            yield f"unix://{folder}/tyk.sock", log
        except TimeoutError:
            sys.exit(f"the broker was not ready in {START_LIMIT:g} s; its log:\n{log.read_text()}")
        finally:
            broker.terminate()
            broker.wait()
            shutil.rmtree(folder)


def show_call(console: Console, client: GrpcClient, hook: str, said: dict[str, Any], must_change: str) -> bool:
    """Make one call, show what changed, and say whether what must have changed did."""
    obj = build_object(CallDescription(hook, **BUNDLE, **said))
    outcome = call_hook(client, obj, timeout=10)
    name = f"all {said['hook_type']} hooks in one dispatch (*)" if hook == "*" else hook
    show_changes(console, f"@{said['hook_type']} {name}", outcome.changes, outcome.seconds)
    return must_change in {change.path for change in outcome.changes} and isinstance(outcome.received, Object)


def show_changes(console: Console, title: str, found: list[Change], seconds: float) -> None:
    """Print one call, a line for each change."""
    console.print(f"[bold]{title}[/]  {seconds * 1e3:.2f} ms")
    for change in found:
        console.print(f"  {change}", style=SIGNS[change.sign], markup=False, soft_wrap=True)


def show_event(console: Console, client: GrpcClient) -> None:
    """Send one event; it has no answer, but leaves a line in the log."""
    event = build_event("OnAuthFailure", {"Type": "AuthFailure", "Meta": {"Path": "/pets"}}, {"APIID": "demo"})
    seconds = send_event(client, event, timeout=10)
    console.print(f"[bold]@Event OnAuthFailure[/]  {seconds * 1e3:.2f} ms, see the log")


if __name__ == "__main__":
    sys.exit(main())
