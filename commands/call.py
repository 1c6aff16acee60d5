"""`tykpy call`: call one hook of a running broker as a gateway would."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tykpy.broker.config import MAX_MESSAGE
from tykpy.commands import parameters
from tykpy.commands.connecting import runtime_dir_option, tls_options
from tykpy.commands.errors import CommandError
from tykpy.commands.terminal import no_traceback
from tykpy.ipc.regular_file import read_at_most

if TYPE_CHECKING:
    from tykpy.commands.objects import Outcome


def _pair(separator: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], list[tuple[str, str]]]:
    def parse(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
        pairs = [value.partition(separator) for value in values]
        for name, found, value in pairs:
            if not found or not name:
                raise click.BadParameter(f"{name + value!r} is not of the form NAME{separator}VALUE")
            try:
                (name + value).encode()
            except UnicodeEncodeError:
                raise click.BadParameter(f"{name + separator + value!r} is not UTF-8") from None
        return [(name.strip(), value.strip()) for name, _, value in pairs]

    return parse


def _json_map(_ctx: click.Context, _param: click.Parameter, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter("not a JSON object")
    return value


def _body(_ctx: click.Context, _param: click.Parameter, text: str) -> bytes:
    if not text.startswith("@"):
        return os.fsencode(text)  # as it was written, also if that is no UTF-8
    try:
        return read_at_most(text[1:], MAX_MESSAGE)
    except OSError as error:
        raise click.BadParameter(f"{text[1:]}: {error.strerror}") from error


@click.command(short_help="Call a hook of a running broker, and show what it changed.")
@click.argument("hook", required=False)
@click.option("--connect", metavar="ADDRESS", help="The broker's address.  [default: unix://RUNTIME_DIR/tyk.sock]")
@tls_options
@runtime_dir_option
@click.option("--type", "hook_type", default="Pre", show_default=True,
              type=click.Choice(["Pre", "CustomKeyCheck", "PostKeyAuth", "Post", "Response", "Event"]),
              help="What the gateway calls the hook as.")  # fmt: skip
@click.option("--bundle", default="", help="The bundle's name, or the hash of it.  [default: found by the hook's name]")
@click.option("--object", "object_file", type=click.Path(path_type=Path), help="JSON file with the whole Object.")
@click.option("-X", "--method", default="GET", show_default=True, help="The request's method.")
@click.option("--url", default="/", show_default=True, help="The request's path and query, or a whole URL.")
@click.option("-H", "--header", "headers", multiple=True, callback=_pair(":"), help="A request header, 'Name: value'.")
@click.option("-d", "--body", default="", callback=_body, help="The request's body, or @FILE.")
@click.option("--session", callback=_json_map, help="The session, as JSON.")
@click.option("--metadata", multiple=True, callback=_pair("="), help="One entry of the session's metadata, KEY=VALUE.")
@click.option("--grpc-metadata", multiple=True, callback=_pair("="),
              help="One entry of the call's gRPC metadata, KEY=VALUE, e.g. traceparent=00-...")  # fmt: skip
@click.option("--spec", multiple=True, callback=_pair("="), help="One entry of the API's spec, KEY=VALUE.")
@click.option(
    "--response-status",
    type=parameters.whole,
    metavar=parameters.INTEGER,
    default=200,
    show_default=True,
    help="Response hooks: upstream's status.",
)
@click.option("--response-header", "response_headers", multiple=True, callback=_pair(":"),
              help="Response hooks: a header, 'Name: value'.")  # fmt: skip
@click.option("--response-body", default="", callback=_body, help="Response hooks: upstream's body, or @FILE.")
@click.option("--message", callback=_json_map, help="Events: the message, as JSON.")
@click.option("--timeout", type=parameters.time, metavar=parameters.TIME, default="10s", show_default=True,
              help="Time to wait for the answer.")  # fmt: skip
@click.option("--json", "whole", is_flag=True, help="Print the whole object that came back, as JSON.")
def call(
    hook: str | None, connect: str | None, runtime_dir: Path, object_file: Path | None, timeout: float, whole: bool,
    message: dict[str, Any] | None, grpc_metadata: list[tuple[str, str]], **description: Any,
) -> None:  # fmt: skip
    """Call one HOOK of a running broker as the gateway would, and show what it changed."""
    from tykpy.client.dialing import ClientTls
    from tykpy.commands import objects

    if (hook is None) == (object_file is None):
        raise click.UsageError("give either the name of a hook or a whole object with --object, not both or neither")
    description["spec"] = dict(description["spec"])
    tls = ClientTls.of({name: description.pop(name) for name in list(description) if name.startswith("tls_")})
    with no_traceback(), objects.connect(connect or f"unix://{runtime_dir}/tyk.sock", tls) as client:
        if description["hook_type"] == "Event":
            seconds = objects.send_event(
                client, objects.build_event(hook or "", message or {}, description["spec"]), timeout
            )
            click.echo(f"{hook} took the event in {seconds * 1e3:.2f} ms")
            return
        if object_file is not None:
            obj = objects.read_object(object_file)
        else:
            obj = objects.build_object(objects.CallDescription(hook or "", **description))
        try:
            outcome = objects.call_hook(client, obj, timeout, dict(grpc_metadata))
        except CommandError as error:
            # A gateway sends no names of bundles, so the broker knows only the hash.
            name = description["bundle"]
            said = str(error).replace(f"the hash {objects.bundle_hash(name)}", f"the name {name}")
            raise CommandError(said) from error
    if whole:
        click.echo(objects.as_json(outcome.received))
    else:
        _show(outcome)


def _show(outcome: "Outcome") -> None:
    found = outcome.changes
    took = f"{outcome.sent.hook_name} answered in {outcome.seconds * 1e3:.2f} ms"
    click.echo(took + ("" if found else " and changed nothing"))
    for change in found:
        click.echo(f"  {change}")
