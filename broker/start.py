"""`tykpy broker`, from its options to its exit code.

The order matters: addresses are taken while we may be root. Privileges are dropped before the zygote is started, whose
forks run plugin code. It imports what workers need while this process imports what serves.
"""

import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Final

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import BrokerError, ConfigError, ListenError, NoWorkerError
from tykpy.broker.host import privileges
from tykpy.broker.host.cpus import usable_cpus
from tykpy.broker.host.descriptors import raise_limit
from tykpy.broker.host.exits import ExitCode
from tykpy.broker.host.kernel import check_kernel
from tykpy.broker.host.orphans import Orphans, reap_orphans
from tykpy.broker.net.listeners import Listeners
from tykpy.broker.pool.process import HANDLED_SIGNALS
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.ipc.title import BROKER, set_title
from tykpy.telemetry.log import close_log, configure_log, open_log, reopen_log
from tykpy.telemetry.records import counted
from tykpy.telemetry.tracing import TracingError, is_on

log = logging.getLogger("tykpy.broker")

STANDARD_DESCRIPTORS: Final = (0, 1, 2)


def run(config: BrokerConfig) -> ExitCode:
    """Serve until SIGTERM or SIGINT; log errors and return the exit code."""
    _open_standard_descriptors()
    set_title(BROKER)
    _hold_signals()
    open_log()
    configure_log(config.log_level, config.log_format)
    # It would log what peers send.
    logging.getLogger("hpack").setLevel(logging.WARNING)
    cpus = usable_cpus()
    log.info("%s; CPUs that may be used: %d (%s)", counted(config.workers, "worker"), *cpus)
    try:
        return _run(config)
    finally:
        close_log()


def _run(config: BrokerConfig) -> ExitCode:
    try:
        check_kernel()
        config = _decide_tracing(config)
        with closing(Listeners.open(config)) as listeners:
            privileges.assume(config)
            _use_log_file(config)
            privileges.renounce()
            raise_limit(config.max_connections, config.workers)
            with closing(Orphans()), closing(ZygoteKeeper()) as zygotes:
                zygotes.open()
                _serve(config, listeners, zygotes)
    except NoWorkerError as error:
        log.error("%s", error)
        return ExitCode.NO_WORKER
    except ConfigError as error:
        log.error("%s", error)
        return ExitCode.USAGE
    except ListenError as error:
        log.error("%s", error)
        return ExitCode.CANNOT_LISTEN
    except BrokerError as error:
        log.error("%s", error)
        return ExitCode.FAULT
    except Exception:
        log.exception("a fault of tykpy itself")
        return ExitCode.FAULT
    return ExitCode.OK


def _decide_tracing(config: BrokerConfig) -> BrokerConfig:
    """Return the configuration with tracing on or off."""
    try:
        return replace(config, tracing="on" if is_on(config.tracing, os.environ) else "off")
    except TracingError as error:
        raise ConfigError(str(error)) from error


def _hold_signals() -> None:
    """Handle signals until the event loop does: stop in order, and ignore those that mean something else."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: sys.exit(ExitCode.OK))
    for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        # Not SIG_IGN: processes that are started meanwhile would inherit it.
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGUSR1, lambda _number, _frame: reopen_log())
    # A program that takes over was started with them blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)


def _open_standard_descriptors() -> None:
    """Open standard descriptors that are closed: the log would be written to a socket in their place."""
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            # Gets the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _use_log_file(config: BrokerConfig) -> None:
    # Not before privileges are dropped: root must not follow a link that the broker's user put there.
    if config.log_file is None:
        return
    log.info("logging to %s", config.log_file)
    try:
        configure_log(config.log_level, config.log_format, config.log_file)
    except OSError as error:
        why = "it is a FIFO that nobody reads" if error.errno == errno.ENXIO else error.strerror
        raise ConfigError(f"--log-file {config.log_file} cannot be opened: {why}") from error


def _serve(config: BrokerConfig, listeners: Listeners, zygotes: ZygoteKeeper) -> None:
    from tykpy.broker.app import serve  # half of a broker's imports

    with asyncio.Runner(loop_factory=loop_factory(config.event_loop)) as runner:
        reap_orphans(runner.get_loop())
        runner.run(serve(config, listeners, zygotes))


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what creates the event loop named by --event-loop."""
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop
