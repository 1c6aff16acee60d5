"""`tykpy check-config`: every option with its value, and what would keep the broker from starting."""

import os
from collections.abc import Callable, Iterator

from tykpy.broker.config import BrokerConfig, flag_of, options
from tykpy.broker.errors import BrokerError, ListenError
from tykpy.broker.host import privileges
from tykpy.broker.host.cpus import usable_cpus
from tykpy.broker.net import sockets, tls
from tykpy.broker.net.access import gateway_admission
from tykpy.broker.net.addresses import MSGPACK_PREFIX
from tykpy.broker.net.listeners import socket_options
from tykpy.broker.net.runtime_folder import make_runtime_dir
from tykpy.commands import descriptions
from tykpy.commands.config.options import shown
from tykpy.commands.errors import CommandError
from tykpy.commands.terminal import harmless
from tykpy.ipc.text import why_unread
from tykpy.telemetry.live_segment import read_live_snapshot
from tykpy.telemetry.records import counted

Echo = Callable[[str], object]


def check(config: BrokerConfig, echo: Echo, *, load: bool) -> bool:
    """Print the problems, then the options; return whether there are no problems.

    `load`: import the bundles, which runs their code.
    """
    running = _running_broker(config)
    problems = list(dict.fromkeys(_problems(config, load, running)))
    for problem in problems:
        echo(f"problem: {harmless(problem)}")
    for option in options():
        echo(f"{flag_of(option.name):<25} {shown(option, getattr(config, option.name))}")
    if running:
        echo(f"process {running} is the running broker of this --runtime-dir; its addresses count as free")
    echo("CPUs that may be used: {} ({})".format(*usable_cpus()))
    if config.bundles is not None and not os.path.lexists(config.bundles):
        echo(f"--bundles {config.bundles}: there is no such folder yet; the broker waits for it")
    elif config.bundles is not None and not load:
        echo("the bundles were checked without importing them; --load does that too")
    echo(f"{counted(len(problems), 'problem')} found" if problems else "ok")
    return not problems


def _running_broker(config: BrokerConfig) -> int:
    """Return the pid of the broker that runs with these options' runtime folder, or 0."""
    seen = read_live_snapshot(config.runtime_dir)
    return seen.snapshot.pid if seen is not None and seen.is_running else 0


def _problems(config: BrokerConfig, load: bool, running: int) -> Iterator[str]:
    yield from _listening_problems(config, running)
    try:
        # As the broker does, for the rest of the process: everything below is checked with that user's rights.
        if config.user is not None:
            privileges.assume(config)
    except BrokerError as error:
        yield str(error)
        return
    yield from _bundle_problems(config, load)
    yield from _api_problems(config)


def _listening_problems(config: BrokerConfig, running: int) -> Iterator[str]:
    try:
        gateway_admission(config)
        options = socket_options(config)
        make_runtime_dir(config.runtime_dir, options)
    except BrokerError as error:
        yield str(error)
        return
    if any(tls.PREFIX in address for address in config.listen):
        try:
            tls.server_options(config, tls.HTTP2)
        except BrokerError as error:
            yield str(error)
    for address in (*config.addresses, *config.metrics_addresses):
        try:
            sockets.listen(address.removeprefix(MSGPACK_PREFIX), options).close()
        except ListenError as error:
            if not error.owner or error.owner != running:
                yield str(error)
        except BrokerError as error:
            yield str(error)


def _bundle_problems(config: BrokerConfig, load: bool) -> Iterator[str]:
    if config.bundles is None:
        yield "--bundles is not set: every dispatch will be answered NOT_FOUND"
        return
    try:
        os.listdir(config.bundles)
    except FileNotFoundError:
        return  # the broker waits for it
    except OSError as error:
        yield f"--bundles {config.bundles} cannot be read: {why_unread(error)}"
        return
    try:
        found = descriptions.of_folder(config.bundles, config.public_key, config.apis, load=load)
        yield from descriptions.problems_of(found)
    except CommandError as error:
        yield str(error)


def _api_problems(config: BrokerConfig) -> Iterator[str]:
    if config.apis is None:
        return
    try:
        os.listdir(config.apis)
    except OSError as error:
        yield f"--apis {config.apis} cannot be read: {why_unread(error)}"
