"""`make run`: a broker with the example bundle, a gateway's calls through its socket, and what each hook changed.

The exit code is 0 if every call did what the bundle says.
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

import click

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.client.grpc import GrpcClient
from tykpy.commands.objects import CallDescription, build_event, build_object, call_hook, send_event
from tykpy.workers.objects.changes import Change

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
"""Hook, the gateway's call, and a field that the hook must change."""


def main() -> int:
    """Run the demo; returns its exit code."""
    with running_broker() as (address, log), GrpcClient(address) as client:
        command = bold(f"tykpy broker --workers {WORKERS} --bundles examples/bundles")
        click.echo(f"{command} listens on {address}\n")
        complete = [show_call(client, *call) for call in CALLS]
        show_event(client)
        click.secho(f"\nThe broker's log:\n{log.read_text()}", dim=True)
    click.echo("all calls did what the bundle says" if all(complete) else "a call did not do what it should")
    return 0 if all(complete) else 1


@contextmanager
def running_broker() -> Iterator[tuple[str, Path]]:
    """Start the broker as a user would, wait until it says that its workers are ready, and stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tykpy-demo-"))
    log = folder / "broker.log"
    flags = [
        "--runtime-dir",
        str(folder),
        "--workers",
        str(WORKERS),
        "--bundles",
        str(BUNDLES),
        "--log-format",
        "console",
    ]
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


def show_call(client: GrpcClient, hook: str, description: dict[str, Any], must_change: str) -> bool:
    """Make one call and show what changed; return whether the required field is among it."""
    obj = build_object(CallDescription(hook, **BUNDLE, **description))
    outcome = call_hook(client, obj, timeout=10)
    name = f"all {description['hook_type']} hooks in one dispatch (*)" if hook == "*" else hook
    show_changes(f"@{description['hook_type']} {name}", outcome.changes, outcome.seconds)
    return must_change in {change.path for change in outcome.changes} and isinstance(outcome.received, Object)


def show_changes(title: str, found: list[Change], seconds: float) -> None:
    """Print one call, a line for each change."""
    click.echo(f"{bold(title)}  {seconds * 1e3:.2f} ms")
    for change in found:
        click.secho(f"  {change}", fg=SIGNS[change.sign])


def show_event(client: GrpcClient) -> None:
    """Send one event, which has no answer but leaves a line in the log."""
    event = build_event("OnAuthFailure", {"Type": "AuthFailure", "Meta": {"Path": "/pets"}}, {"APIID": "demo"})
    seconds = send_event(client, event, timeout=10)
    click.echo(f"{bold('@Event OnAuthFailure')}  {seconds * 1e3:.2f} ms, see the log")


def bold(text: str) -> str:
    """Make text bold where the output is a terminal."""
    return click.style(text, bold=True)


if __name__ == "__main__":
    sys.exit(main())
