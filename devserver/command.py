"""The click command `tykpy dev`: parses, and calls one function. Everything else is imported when it runs."""

import importlib.util
import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from tykpy.commands import parameters
from tykpy.commands.errors import CommandError
from tykpy.commands.terminal import no_traceback

EXTRA: Final = ("aiohttp", "rich", "watchfiles")
"""Packages of the extra `tykpy[dev]`."""
_path: Final = click.Path(path_type=Path, exists=True)
_file: Final = click.Path(path_type=Path, dir_okay=False, exists=True)


def _upstream(value: str) -> str:
    parts = urlsplit(value)
    if value not in ("echo", "api") and not (parts.scheme in ("http", "https") and parts.netloc):
        raise click.BadParameter(f"{value!r}: give a URL such as http://localhost:3000, or echo, or api")
    return value


@click.command(short_help="Run a gateway for development with the hooks of a bundle.")
@click.argument("bundle", metavar="[BUNDLE]", default=".", type=_path)
@click.option(
    "--port",
    type=parameters.WholeBetween(0, 65535),
    default=8080,
    show_default=True,
    help="The port on localhost; 0: any that is free.",
)
@click.option(
    "--api",
    "apis",
    type=_path,
    multiple=True,
    metavar="FILE",
    help="A Tyk API definition, classic or OAS, or a folder of them; repeatable.  [default: the bundle's hooks at /]",
)
@click.option(
    "--upstream",
    type=_upstream,
    default="echo",
    show_default=True,
    metavar="URL|echo|api",
    help="Where requests go: a URL; echo answers with what came; api calls the targets of the definitions.",
)
@click.option("--keys", type=_file, metavar="FILE", help="JSON file with sessions by their keys.")
@click.option("--policies", type=_file, metavar="FILE", help="Tyk's policies.json.")
@click.option(
    "--templates",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="FOLDER",
    help="Error templates: Tyk's template_path.",
)
@click.option("--redis", metavar="URL", default="", help="Storage of the hooks.  [default: a file of this run]")
@click.option(
    "--timeout",
    type=parameters.time_between(0.1, 3600),
    default="30s",
    show_default=True,
    metavar=parameters.TIME,
    help="Time limit of a hook; none while a debugger has stopped it.",
)
@click.option(
    "--broker",
    metavar="ADDRESS",
    default="",
    help="Call the hooks of a running broker (unix:///run/tykpy/tyk.sock); those of BUNDLE only name them.",
)
@click.option(
    "--debugpy",
    type=parameters.WholeBetween(1, 65535),
    metavar="PORT",
    default=None,
    help="Let VS Code or PyCharm attach to this port.",
)
@click.option(
    "--allow-host", "names", multiple=True, metavar="NAME", help="Another host name that requests may have; repeatable."
)
@click.option(
    "--show-secrets", is_flag=True, help="Show tokens, passwords and cookies in the terminal instead of masking them."
)
def dev(
    bundle: Path,
    port: int,
    apis: tuple[Path, ...],
    upstream: str,
    keys: Path | None,
    policies: Path | None,
    templates: Path | None,
    redis: str,
    timeout: float,
    broker: str,
    debugpy: int | None,
    names: tuple[str, ...],
    show_secrets: bool,
) -> None:
    """Run a gateway for development on http://localhost:8080, with the hooks of BUNDLE.

    It treats hooks as Tyk does, in Tyk's order, loads them again when a file is saved, and shows what each of them
    changed. BUNDLE is a folder, ZIP or .py file.  [default: this folder]
    """
    with no_traceback():
        missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
        if missing:
            raise CommandError(f"tykpy dev needs an extra: pip install 'tykpy[dev]' (missing: {', '.join(missing)})")
        if debugpy is not None and importlib.util.find_spec("debugpy") is None:
            raise CommandError("--debugpy needs a package: pip install debugpy")
        from tykpy.devserver.gateway import DevFiles
        from tykpy.devserver.run import DevOptions, run

        # Tracebacks show this path: without `..`.
        sources = DevFiles(Path(os.path.abspath(bundle)), apis, keys, policies, templates)
        run(DevOptions(sources, port, upstream, timeout, redis, broker, debugpy or 0, names, show_secrets))
