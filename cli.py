"""The command line: each command parses, builds a configuration, and calls one function.

What a command needs is imported inside it, so that `tykpy --help` costs nothing and a command pays for itself alone.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click
from click.core import ParameterSource

from tykpy.bench.command import bench
from tykpy.broker.config import AUTO, BrokerConfig, flag_of, options
from tykpy.broker.errors import BrokerError, ConfigError
from tykpy.commands.bundle.cli import COMMANDS
from tykpy.commands.connecting import runtime_dir_option, tls_options
from tykpy.telemetry.records import printable

EXIT_ERROR = 1
MAX_LINE = 10_000
"""Characters of a line that is shown."""
F = TypeVar("F", bound=Callable[..., Any])


class _Octal(click.ParamType[int]):
    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return int(value, 8)
        except ValueError:
            self.fail(f"{value!r} is not a mode like 0660", param, ctx)


class _CountOrAuto(click.ParamType["int | str"]):
    name = "auto|integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int) or value == AUTO:
            return cast("int | str", value)
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither {AUTO} nor a number", param, ctx)


def _click_option(option: Field[Any]) -> Callable[[F], F]:
    meta = option.metadata
    default = None if option.default is MISSING else option.default
    settings: dict[str, Any] = {"help": meta["help"], "envvar": f"TYKPY_{option.name.upper()}", "default": default}
    if isinstance(default, tuple):
        settings["multiple"] = True
    if isinstance(default, bool):
        settings["is_flag"] = True
    settings["show_default"] = meta.get("shown_default", default is not None and default != ())
    if meta.get("octal"):
        settings |= {"type": _Octal(), "show_default": f"{default:04o}"}
    elif default == AUTO:
        settings["type"] = _CountOrAuto()
    elif "choices" in meta:
        settings["type"] = click.Choice(meta["choices"])
    elif "Path" in str(option.type):
        settings["type"] = click.Path(path_type=Path)
    return click.option(flag_of(option.name), option.name, **settings)


def _load_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    # The file's values become the defaults: a flag or an environment variable goes before them.
    if path is None:
        return None
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {option.name: option for option in options()}
    named = {key.replace("-", "_"): value for key, value in values.items()}
    for key in named:
        if key not in known:
            raise click.BadParameter(f"{path}: unknown option {key!r}; known: {', '.join(sorted(known))}")
    found = {key: _as_argument(value) if _names_files(known[key]) else value for key, value in named.items()}
    ctx.default_map = {**(ctx.default_map or {}), **found}
    return path


def _names_files(option: Field[Any]) -> bool:
    return option.name == "listen" or "Path" in str(option.type)


def _as_argument(value: Any) -> Any:
    """What a path in a file, which is UTF-8, would be as an argument, which has the encoding of the locale."""
    if isinstance(value, list):
        return [_as_argument(one) for one in value]
    return os.fsdecode(value.encode()) if isinstance(value, str) else value


def broker_options(function: F) -> F:
    """Give a command every option of the broker, as flags, environment variables and `--config FILE`."""
    for option in reversed(options()):
        function = _click_option(option)(function)
    return click.option(
        "--config", "_config_file", type=click.Path(path_type=Path), is_eager=True, expose_value=False,
        callback=_load_file, envvar="TYKPY_CONFIG", help="TOML file with any of these options.",
    )(function)  # fmt: skip


def _config(values: Mapping[str, Any]) -> BrokerConfig:
    try:
        return BrokerConfig(**values)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _warn_of_exposures() -> None:
    from tykpy.commands.visible_secrets import exposures

    context = click.get_current_context()
    given = context.params.items()
    flags = {name: value for name, value in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for warning in exposures(flags):
        click.echo(f"tykpy: warning: {warning}", err=True)


def _fail(message: object) -> NoReturn:
    click.echo(f"tykpy: {_harmless(message)}", err=True)
    sys.exit(EXIT_ERROR)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tykpy", prog_name="tykpy")
def main() -> None:
    """Python middleware for the Tyk Gateway, on all cores."""


@main.command()
@broker_options
def broker(**values: Any) -> None:
    """Serve a gateway's dispatches with a pool of Python workers.

    Point the gateway's coprocess_grpc_server at the socket. SIGTERM and SIGINT finish what runs, then stop; SIGHUP
    loads the bundles anew; SIGUSR1 opens the log file anew; SIGTTIN and SIGTTOU add and remove a worker; SIGUSR2 hands
    over to a new program.
    Exit codes: 0 stopped, 2 wrong options, 3 no worker can start, 4 an address cannot be listened on.
    """
    from tykpy.broker.start import run

    config = _config(values)
    _warn_of_exposures()
    sys.exit(run(config))


@main.command("check-config")
@broker_options
def check_config(**values: Any) -> None:
    """Say whether `tykpy broker` would start with these options, and with which values."""
    from tykpy.commands.check import check

    config = _config(values)
    _warn_of_exposures()
    if not check(config, click.echo):
        sys.exit(EXIT_ERROR)


def _pair(separator: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], list[tuple[str, str]]]:
    def parse(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
        pairs = [value.partition(separator) for value in values]
        for name, found, value in pairs:
            if not found or not name:
                raise click.BadParameter(f"{name + value!r} is not of the form NAME{separator}VALUE")
        return [(name.strip(), value.strip()) for name, _, value in pairs]

    return parse


def _json_map(_ctx: click.Context, _param: click.Parameter, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter("not a JSON object")
    return value


def _body(_ctx: click.Context, _param: click.Parameter, text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{text[1:]}: {error.strerror}") from error


@main.command()
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
@click.option("--response-status", default=200, show_default=True, help="Response hooks: upstream's status.")
@click.option("--response-header", "response_headers", multiple=True, callback=_pair(":"),
              help="Response hooks: a header, 'Name: value'.")  # fmt: skip
@click.option("--response-body", default="", callback=_body, help="Response hooks: upstream's body, or @FILE.")
@click.option("--message", callback=_json_map, help="Events: the message, as JSON.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait.")
@click.option("--json", "whole", is_flag=True, help="Print the whole object that came back, as JSON.")
def call(
    hook: str | None, connect: str | None, runtime_dir: Path, object_file: Path | None, timeout: float, whole: bool,
    message: dict[str, Any] | None, grpc_metadata: list[tuple[str, str]], **description: Any,
) -> None:  # fmt: skip
    """Call one HOOK of a running broker as the gateway would, and show what it changed."""
    from tykpy.client.dialing import ClientTls
    from tykpy.commands import call as calls
    from tykpy.commands import objects

    if (hook is None) == (object_file is None):
        raise click.UsageError("give either the name of a hook or a whole object with --object, not both or neither")
    description["spec"] = dict(description["spec"])
    tls = ClientTls.of({name: description.pop(name) for name in list(description) if name.startswith("tls_")})
    with _no_traceback(), calls.connect(connect or f"unix://{runtime_dir}/tyk.sock", tls) as client:
        if description["hook_type"] == "Event":
            seconds = calls.send_event(
                client, objects.build_event(hook or "", message or {}, description["spec"]), timeout
            )
            click.echo(f"{hook} took the event in {seconds * 1e3:.2f} ms")
            return
        if object_file is not None:
            obj = objects.read_object(object_file)
        else:
            obj = objects.build_object(objects.CallDescription(hook or "", **description))
        calls.show(calls.call_hook(client, obj, timeout, dict(grpc_metadata)), click.echo, whole=whole)


@main.command()
@runtime_dir_option
@click.option("--bundles", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Look into this folder instead of asking a broker; imports the plugins.")  # fmt: skip
@click.option("--apis", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="With --bundles: folder of the gateway's API definitions, for names.")  # fmt: skip
@click.option("--json", "whole", is_flag=True, help="Print everything that is known, as JSON.")
def hooks(runtime_dir: Path, bundles: Path | None, apis: Path | None, whole: bool) -> None:
    """Show every bundle, whether it is loaded, the APIs that use it, and its hooks with type, shape and place.

    Ends with 1 where something could not be loaded.
    """
    from tykpy.commands import hooks as found

    if apis and not bundles:
        raise click.UsageError("--apis needs --bundles; a broker is told of API definitions by its own --apis")
    with _no_traceback():
        folder = found.describe_folder_once(bundles, apis=apis) if bundles else None
        description = found.describe_broker(runtime_dir) if folder is None else folder
    if whole:
        click.echo(json.dumps(description, indent=2))
        return
    _table(("BUNDLE", "NAME", "APIS", "HOOKS", "STATE"), list(found.bundle_rows_of(description)))
    click.echo()
    _table(("BUNDLE", "HOOK", "TYPE", "SHAPE", "PLACE"), list(found.rows_of(description)))
    for note in found.notes_of(description):
        click.echo(f"note: {note}", err=True)
    problems = [*found.problems_of(description), *found.refusals_of(description)]
    for problem in problems:
        click.echo(f"problem: {_harmless(problem)}", err=True)
    if problems:
        sys.exit(EXIT_ERROR)


@main.command()
@runtime_dir_option
def status(runtime_dir: Path) -> None:
    """Show how a running broker is: its workers, what runs and waits, and what became of the dispatches; as JSON."""
    from tykpy.commands.hooks import ask_broker

    with _no_traceback():
        click.echo(json.dumps(ask_broker(runtime_dir, "status"), indent=2))


_patience = click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait for the answer.")


@main.command("reload")
@runtime_dir_option
@_patience
def reload_bundles(runtime_dir: Path, timeout: float) -> None:
    """Serve what is in the bundles now: new workers load it and take over, and no call fails meanwhile.

    Ends with 1, and the old version goes on, where something that works now would not any more.
    """
    from tykpy.commands import pool

    with _no_traceback():
        answer = pool.reload(runtime_dir, timeout)
    _table(("BUNDLE", "NAME", "APIS", "NOW", "HOOKS"), list(pool.rows_of(answer)))
    for problem in pool.problems_of(answer):
        click.echo(f"problem: {_harmless(problem)}", err=True)
    click.echo(f"reloaded by {answer['workers']} workers in {answer['seconds']:.2f} s")


@main.command()
@click.argument("workers", type=int)
@runtime_dir_option
@_patience
def scale(workers: int, runtime_dir: Path, timeout: float) -> None:
    """Run so many WORKERS from now on, until the broker ends; those that are too many finish what they run."""
    from tykpy.commands import pool

    with _no_traceback():
        click.echo(f"{pool.scale(runtime_dir, workers, timeout)} workers from now on")


for _command in (*COMMANDS, bench):
    main.add_command(_command)


def _harmless(text: object) -> str:
    """Escape what controls a terminal: names and messages are those of plugins and peers."""
    return "\n".join(printable(line, MAX_LINE) for line in str(text).splitlines())


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    rows = [tuple(map(_harmless, row)) for row in rows]
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    for row in [heading, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def _no_traceback() -> Iterator[None]:
    from tykpy.commands.errors import CommandError

    try:
        yield
    except (CommandError, BrokerError, OSError) as error:
        _fail(error)


if __name__ == "__main__":
    main()
