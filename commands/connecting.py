"""Options of commands that connect to a running broker, named like those of `tykpy broker`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tykpy.broker.config import default_runtime_dir
from tykpy.commands import parameters

F = TypeVar("F", bound=Callable[..., Any])

_file = click.Path(path_type=Path, dir_okay=False)
_OPTIONS = (
    click.option("--tls-ca", type=_file, metavar="FILE",
                 help="With tls://: PEM file with the CAs to trust.  [default: the system's]"),
    click.option("--tls-name", metavar="NAME",
                 help="With tls://: the name in the broker's certificate.  [default: the address's host]"),
    click.option("--tls-cert", type=_file, metavar="FILE",
                 help="With tls://: PEM file with a client certificate, if the broker requires one."),
    click.option("--tls-key", type=_file, metavar="FILE",
                 help="PEM file with the key of --tls-cert.  [default: in --tls-cert]"),
    click.option("--tls-key-passphrase-file", type=_file, metavar="FILE",
                 help="File with the passphrase of an encrypted key."),
)  # fmt: skip

runtime_dir_option = click.option(
    "--runtime-dir", type=parameters.GivenPath(), default=default_runtime_dir(), envvar="TYKPY_RUNTIME_DIR",
    show_default=True, help="The broker's runtime folder.",
)  # fmt: skip


def tls_options(function: F) -> F:
    """Give a command the options of `client.dialing.ClientTls`, with the same names."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
