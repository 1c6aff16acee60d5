"""`tykpy hooks`: every bundle with its hooks, from a running broker or straight from a folder."""

import json
import sys
from pathlib import Path

import click

from tykpy.commands.connecting import runtime_dir_option
from tykpy.commands.terminal import EXIT_ERROR, no_traceback, print_problems, table, terminal_width


@click.command(short_help="Show every bundle and its hooks.")
@runtime_dir_option
@click.option("--bundles", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Look into this folder instead of asking a broker; imports the plugins.")  # fmt: skip
@click.option("--apis", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="With --bundles: folder of the gateway's API definitions, for names.")  # fmt: skip
@click.option("--json", "whole", is_flag=True, help="Print everything that is known, as JSON.")
@click.option("--wide", is_flag=True, help="Show everything, however wide the terminal is.")
def hooks(runtime_dir: Path, bundles: Path | None, apis: Path | None, whole: bool, wide: bool) -> None:
    """Show every bundle, whether it is loaded, the APIs that use it, and its hooks with type, shape and place.

    Lines fit the terminal: shapes are left out and long names are cut in the middle if need be. A file or pipe gets
    everything.
    Exits with 1 if something could not be loaded.
    """
    from tykpy.commands import descriptions

    if apis and not bundles:
        raise click.UsageError("--apis needs --bundles; a broker is told of API definitions by its own --apis")
    with no_traceback():
        if bundles is None:
            described = descriptions.of_broker(runtime_dir)
        else:
            described = descriptions.of_folder(bundles, apis=apis)
    if whole:
        click.echo(json.dumps(described, indent=2))
        return
    width = None if wide else terminal_width()
    table(("BUNDLE", "NAME", "APIS", "HOOKS", "STATE"), descriptions.bundle_rows_of(described), width)
    click.echo()
    table(("BUNDLE", "HOOK", "TYPE", "SHAPE", "PLACE"), descriptions.hook_rows_of(described), width, spare="SHAPE")
    for note in descriptions.notes_of(described):
        click.echo(f"note: {note}", err=True)
    if print_problems((*descriptions.problems_of(described), *descriptions.refusals_of(described))):
        sys.exit(EXIT_ERROR)
