"""The options of the broker as commands take them: flags, `TYKPY_*` variables, and the TOML file of `--config`."""

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from click.types import OptionHelpExtra

from tykpy.broker.config import (
    AUTO,
    CONFIG_VARIABLE,
    FLAG,
    BrokerConfig,
    flag_of,
    groups,
    options,
    show_value,
    variable_of,
)  # fmt: skip
from tykpy.broker.errors import ConfigError
from tykpy.broker.units import parse_whole, quoted
from tykpy.commands import parameters
from tykpy.commands.config.schema import is_of_type, types_of
from tykpy.commands.terminal import harmless
from tykpy.ipc.regular_file import read_at_most
from tykpy.ipc.text import why_unread

F = TypeVar("F", bound=Callable[..., Any])

_FILE: Final = "tykpy.config-file"
"""Key in a context's `meta`: the ConfigFile of `--config`."""
_WRONG: Final = "tykpy.wrong-options"
"""Key in a context's `meta`: the names of wrong options, and what is wrong with each."""
_KNOWN: Final = {option.name: option for option in options()}
_MAX_FILE: Final = 1024 * 1024
"""Bytes of a TOML file."""
_SERVICE_LINK: Final = re.compile(
    r"TYKPY_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes sets in every container for a Service named `tykpy` or `tykpy-...`."""


class ConfigFile(NamedTuple):
    """The TOML file of `--config`."""

    path: Path
    text: str

    def place_of(self, name: str) -> str:
        """Return the path, and the line that sets an option if it is found: tomllib does not tell."""
        key = re.escape(name).replace("_", "[-_]")
        found = re.search(rf"""^[ \t]*(\[[ \t]*)?["']?{key}["']?[ \t]*[].=]""", self.text, re.MULTILINE)
        return f"{self.path}, line {self.text.count(chr(10), 0, found.start()) + 1}" if found else str(self.path)


class BrokerOption(click.Option):
    """An option of the broker; its help shows the variable, and the default as it may be given."""

    def __init__(self, names: Sequence[str], *, shown_default: str = "", **settings: Any) -> None:
        super().__init__(names, show_envvar=True, show_default=False, **settings)
        self._shown_default = shown_default

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        """Return what stands in brackets after the help text."""
        extra = super().get_help_extra(ctx)
        if self._shown_default:
            extra["default"] = self._shown_default
        return extra

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Parse a value; `checked` reports a wrong one, together with all others."""
        try:
            return super().process_value(ctx, value)
        except click.BadParameter as error:
            name, text = str(self.name), error.message
            if ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP:
                text = f"{ctx.meta[_FILE].place_of(name)}: {text}"
            _note_wrong(ctx, self, text, name)
            return None


class BrokerCommand(click.Command):
    """A command with all options of the broker, whose help shows them in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then those of the broker by group."""
        found = {option.name: option.get_help_record(ctx) for option in self.get_params(ctx)}
        named = {title: [found.pop(option.name) for option in group] for title, group in groups().items()}
        for title, records in {"Options": list(found.values()), **named}.items():
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


def broker_options(function: F) -> F:
    """Give a command every option of the broker, as flags, environment variables and `--config FILE`."""
    for option in reversed(options()):
        function = _click_option(option)(function)
    return click.option(
        "--config", "_config_file", type=click.Path(path_type=Path), is_eager=True, expose_value=False, metavar="FILE",
        callback=_load_file, envvar=CONFIG_VARIABLE, show_envvar=True, help="TOML file with any of these options.",
    )(function)  # fmt: skip


def _click_option(option: Field[Any]) -> Callable[[F], F]:
    meta, default = option.metadata, option.default
    shown = "" if default is None or default == () or default is False else show_value(option, default)
    return click.option(
        flag_of(option.name), option.name, cls=BrokerOption, help=meta["help"], envvar=variable_of(option.name),
        default=default, shown_default=meta.get("shown_default", shown), multiple=isinstance(default, tuple),
        is_flag=isinstance(default, bool), **_type_of(option),
    )  # fmt: skip


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
    if option.type is int:
        return {"type": parameters.whole, "metavar": parameters.INTEGER}
    return {"type": parameters.GivenPath()} if _is_path(option) else {}


def _count_or_auto(text: str | int) -> int | str:
    try:
        return text if text == AUTO else parse_whole(str(text))
    except ValueError:
        raise click.BadParameter(f"{quoted(str(text))} is neither {AUTO} nor a number") from None


def _is_path(option: Field[Any]) -> bool:
    return "Path" in str(option.type)


def _note_wrong(ctx: click.Context, param: click.Parameter, text: str, name: str) -> None:
    """Remember what is wrong with the option `name`, whether or not it exists, until `checked` reports it."""
    message = click.BadParameter(text, ctx=ctx, param=param).format_message()
    ctx.meta.setdefault(_WRONG, []).append((name, message))


def _load_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make the values of a TOML file the defaults: flags and environment variables go before them."""
    if path is None:
        return None
    import tomllib

    try:
        read = read_at_most(path, _MAX_FILE)
    except OSError as error:
        raise click.BadParameter(f"{path}: {why_unread(error)}") from error
    try:
        # Some editors begin a file with a byte order mark; TOML's lines may end with CR and LF.
        text = read.decode("utf-8-sig").replace("\r\n", "\n")
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path}: not TOML, where text is in quotes: {error}") from error
    file = ConfigFile(path, text)
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        problem = _problem_of(key, value, found, file)
        if problem:
            _note_wrong(ctx, param, problem, name)
        else:
            found[name] = _as_argument(value) if name == "listen" or _is_path(_KNOWN[name]) else value
    ctx.default_map = {**(ctx.default_map or {}), **found}
    ctx.meta[_FILE] = file
    return path


def _problem_of(key: str, value: Any, before: Collection[str], file: ConfigFile) -> str:
    """Return what is wrong with an entry of the file, if anything; `before`: the names of those before it."""
    name = key.replace("-", "_")
    if name not in _KNOWN:
        nearest = _did_you_mean(name, _KNOWN).replace("_", "-")
        return f"{file.place_of(key)}: unknown option {quoted(key)}{nearest}"
    if name in before:
        return f"{file.path}: {key!r} is given twice, with - and with _"
    if not is_of_type(_KNOWN[name], value):
        return f"{file.place_of(key)}: {key!r} must be of type {' or '.join(types_of(_KNOWN[name]))}"
    if any("\0" in one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)):
        return f"{file.place_of(key)}: {key!r} contains a NUL character"
    return ""


def _as_argument(value: Any) -> Any:
    """Convert a path from a file, which is UTF-8, to what it would be as an argument, in the locale's encoding."""
    if isinstance(value, list):
        return [_as_argument(one) for one in value]
    return os.fsdecode(value.encode())


def checked(values: Mapping[str, Any]) -> BrokerConfig:
    """Return the configuration; warn about secrets given as flags, and about variables that nothing reads.

    Raises UsageError with all wrong options.
    """
    wrong: list[tuple[str, str]] = click.get_current_context().meta.get(_WRONG, [])
    names = {name for name, _ in wrong}
    problems = [message for _, message in wrong]
    try:
        config = BrokerConfig(**{name: value for name, value in values.items() if name not in names})
    except ConfigError as error:
        # Together with a wrong option, others may be wrong only because its default stands for it.
        flags = set(map(flag_of, names))
        problems += [one + _places_of(one) for one in error.problems if flags.isdisjoint(FLAG.findall(one))]
    if problems:
        first, *others = problems
        raise click.UsageError("\n".join([f"{len(problems)} options are wrong:", *problems]) if others else first)
    for warning in (*_exposed_secrets(values), *unknown_variables(os.environ)):
        click.echo(f"tykpy: warning: {warning}", err=True)
    return config


def _places_of(message: str) -> str:
    """Return where the file sets the options that an error names."""
    names = {flag_of(option.name): option.name for option in options()}
    named = [names[flag] for flag in dict.fromkeys(FLAG.findall(message)) if flag in names]
    meta = click.get_current_context().meta
    found = [f"{flag_of(name)}: {meta[_FILE].place_of(name)}" for name in named if source_of(name).kind == "file"]
    return f" ({'; '.join(found)})" if found else ""


def _exposed_secrets(values: Mapping[str, Any]) -> Iterator[str]:
    """Every user of the machine can read the command line."""
    for option in options():
        value = values.get(option.name)
        if value and source_of(option.name).kind == "command line" and without_secret(option, value) != value:
            instead = f"give it as {variable_of(option.name)}, or in the file of --config"
            yield f"{flag_of(option.name)} shows a secret to every user of this machine: {instead}"


def unknown_variables(environment: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like an option but is not one."""
    from tykpy.broker.host.upgrade import VARIABLE

    known = {variable_of(option.name) for option in options()} | {CONFIG_VARIABLE}
    for name in sorted(environment):
        if name.startswith("TYKPY_") and name not in known | {VARIABLE} and not _SERVICE_LINK.fullmatch(name):
            yield f"the environment variable {harmless(name)} is unknown, and ignored{_did_you_mean(name, known)}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


class ValueSource(NamedTuple):
    """Where the value of an option comes from."""

    kind: str
    """"command line", "environment", "file" or "default"."""
    name: str = ""
    """The flag, the variable, or the path of the file."""

    def __str__(self) -> str:
        return self.kind if self.kind in ("command line", "default") else self.name


def source_of(name: str) -> ValueSource:
    """Return where the running command found the value of an option."""
    context = click.get_current_context()
    match context.get_parameter_source(name):
        case ParameterSource.COMMANDLINE:
            return ValueSource("command line", flag_of(name))
        case ParameterSource.ENVIRONMENT:
            return ValueSource("environment", variable_of(name))
        case ParameterSource.DEFAULT_MAP:
            return ValueSource("file", str(context.meta[_FILE].path.absolute()))
    return ValueSource("default")


def without_secret(option: Field[Any], value: Any) -> Any:
    """Return a value without the login or the path that may be in its URL."""
    from tykpy.redisclient.address import redact

    secret = option.metadata.get("secret")
    if value is None or secret is None:
        return value
    if secret == "login":
        return redact(value)
    # Receivers put their secrets into path and query.
    return f"{urlsplit(value).scheme}://{urlsplit(value).netloc.rpartition('@')[2]}/..."


def shown(option: Field[Any], value: Any) -> str:
    """Return a value on one line, without secrets; where none is given, what stands for it."""
    if value is None or value == () or (value == option.default and "shown_default" in option.metadata and not value):
        return f"({option.metadata.get('shown_default', 'none')})"
    one_by_one = value if isinstance(value, tuple) else (without_secret(option, value),)
    text = " ".join(show_value(option, one) for one in one_by_one)
    return text.encode(errors="backslashreplace").decode().replace("\n", "\\n")
