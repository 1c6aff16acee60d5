"""`tykpy broker` and `tykpy check-config`: all options of the broker, from flags, environment variables and a file."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from tykpy.broker.config import AUTO, BrokerConfig, flag_of, options, show_value, variable_of
from tykpy.broker.errors import ConfigError
from tykpy.commands import parameters
from tykpy.commands.terminal import EXIT_ERROR

F = TypeVar("F", bound=Callable[..., Any])


def _count_or_auto(text: str | int) -> int | str:
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither {AUTO} nor a number") from None


def _click_option(option: Field[Any]) -> Callable[[F], F]:
    meta, default = option.metadata, option.default
    settings: dict[str, Any] = {"help": meta["help"], "envvar": variable_of(option.name), "default": default}
    settings |= {"multiple": isinstance(default, tuple), "is_flag": isinstance(default, bool), **_type_of(option)}
    has_default = default is not None and default != ()
    settings["show_default"] = meta.get("shown_default") or (has_default and show_value(option, default))
    return click.option(flag_of(option.name), option.name, **settings)


def _type_of(option: Field[Any]) -> dict[str, Any]:
    meta = option.metadata
    if meta.get("octal"):
        return {"type": parameters.octal, "metavar": "OCTAL"}
    if meta.get("unit") == "bytes":
        return {"type": parameters.size, "metavar": parameters.SIZE}
    if meta.get("unit") == "seconds":
        return {"type": parameters.whole_seconds if option.type is int else parameters.time, "metavar": parameters.TIME}
    if "choices" in meta:
        return {"type": click.Choice(meta["choices"])}
    if option.default == AUTO:
        return {"type": _count_or_auto, "metavar": "AUTO|INTEGER"}
    return {"type": click.Path(path_type=Path)} if "Path" in str(option.type) else {}


def _load_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    """Make the values of a TOML file the defaults: flags and environment variables go before them."""
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
    """Convert a path from a file, which is UTF-8, to what it would be as an argument, in the locale's encoding."""
    if isinstance(value, list):
        return [_as_argument(one) for one in value]
    return os.fsdecode(value.encode()) if isinstance(value, str) else value


def _broker_options(function: F) -> F:
    """Give a command every option of the broker, as flags, environment variables and `--config FILE`."""
    for option in reversed(options()):
        function = _click_option(option)(function)
    return click.option(
        "--config", "_config_file", type=click.Path(path_type=Path), is_eager=True, expose_value=False,
        callback=_load_file, envvar="TYKPY_CONFIG", help="TOML file with any of these options.",
    )(function)  # fmt: skip


def _checked(values: Mapping[str, Any]) -> BrokerConfig:
    """Return the configuration, and warn about secrets given as flags: every user of the machine can read argv."""
    from tykpy.redisclient.address import redact

    try:
        config = BrokerConfig(**values)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    context = click.get_current_context()
    for option in options():
        value, secret = values.get(option.name), option.metadata.get("secret")
        if not value or context.get_parameter_source(option.name) is not ParameterSource.COMMANDLINE:
            continue
        if secret == "all" or (secret == "login" and redact(value) != value):
            instead = f"give it as {variable_of(option.name)}, or in the file of --config"
            shows = f"{flag_of(option.name)} shows a secret to every user of this machine"
            click.echo(f"tykpy: warning: {shows}: {instead}", err=True)
    return config


@click.command()
@_broker_options
def broker(**values: Any) -> None:
    """Serve a gateway's dispatches with a pool of Python workers.

    Point the gateway's coprocess_grpc_server at the socket. SIGTERM and SIGINT finish what runs, then stop; SIGHUP
    reloads the bundles; SIGUSR1 reopens the log file; SIGTTIN and SIGTTOU add and remove a worker; SIGUSR2 hands
    over to a new program.
    Exit codes: 0 stopped, 2 wrong options, 3 no worker can start, 4 an address cannot be listened on.
    """
    from tykpy.broker.start import run

    sys.exit(run(_checked(values)))


@click.command("check-config")
@_broker_options
def check_config(**values: Any) -> None:
    """Check whether `tykpy broker` would start with these options, and show their values."""
    from tykpy.commands.checking import check

    if not check(_checked(values), click.echo):
        sys.exit(EXIT_ERROR)
