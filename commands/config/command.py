"""`tykpy config` and `tykpy check-config`: where the broker's options come from, and whether they work."""

import json
import sys
from typing import Any

import click

from tykpy.broker.config import flag_of, options
from tykpy.commands.config.options import BrokerCommand, broker_options, checked, shown, source_of, without_secret
from tykpy.commands.config.schema import schema
from tykpy.commands.terminal import EXIT_ERROR, table


@click.command("check-config", cls=BrokerCommand)
@click.option("--load", is_flag=True, help="Also import the bundles, which runs their code.")
@broker_options
def check_config(load: bool, **values: Any) -> None:
    """Check whether `tykpy broker` would start with these options.

    Prints the problems, then all values. Of the bundles it checks manifests, checksums, signatures and syntax;
    --load also imports them, as a worker does. Exits with 1 if there is a problem.
    """
    from tykpy.commands.config.checking import check

    if not check(checked(values), click.echo, load=load):
        sys.exit(EXIT_ERROR)


@click.group()
def config() -> None:
    """Show the options of the broker, or the schema of its file."""


@config.command("show", cls=BrokerCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: times in seconds, sizes in bytes.")
@broker_options
def show(as_json: bool, **values: Any) -> None:
    """Show each option of `tykpy broker` with its value and where that comes from.

    Takes the options that the broker would get. Logins and secret URLs are hidden.
    """
    configuration = checked(values)
    found = [(option, getattr(configuration, option.name), source_of(option.name)) for option in options()]
    if as_json:
        described = {
            option.name: {"value": without_secret(option, value), "source": source.kind, "name": source.name}
            for option, value, source in found
        }
        click.echo(json.dumps(described, indent=2, default=str))
    else:
        rows = ((flag_of(option.name), shown(option, value), str(source)) for option, value, source in found)
        table(("OPTION", "VALUE", "SOURCE"), rows)


@config.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of the file of --config."""
    click.echo(json.dumps(schema(), indent=2))
