"""`tykpy broker`: serve a gateway."""

import sys
from typing import Any

import click

from tykpy.commands.config.options import BrokerCommand, broker_options, checked


@click.command(cls=BrokerCommand)
@broker_options
def broker(**values: Any) -> None:
    """Serve a gateway's dispatches with a pool of Python workers.

    Point the gateway's coprocess_grpc_server at the socket. SIGTERM and SIGINT finish what runs, then stop; SIGHUP
    reloads the bundles; SIGUSR1 reopens the log file; SIGTTIN and SIGTTOU add and remove a worker; SIGUSR2 hands
    over to a new program.

    Exit codes: 0 stopped, 2 wrong options, 3 no worker can start, 4 an address cannot be listened on.
    """
    from tykpy.broker.start import run

    sys.exit(run(checked(values)))
