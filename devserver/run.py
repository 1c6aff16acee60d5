"""`tykpy dev` from its options to its end."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tykpy.broker.host.orphans import Orphans
from tykpy.commands.errors import CommandError
from tykpy.devserver.gateway import DevFiles, DevGateway, LoadingHooks
from tykpy.devserver.hooks.broker import BrokerHooks
from tykpy.devserver.hooks.process import HookProcess
from tykpy.devserver.hooks.wire import HookSetup
from tykpy.devserver.server import INSPECTOR, DevServer
from tykpy.devserver.upstream import HttpUpstream
from tykpy.devserver.views.terminal import TerminalView
from tykpy.devserver.watch import saves
from tykpy.ipc.title import DEV, set_title


@dataclass(frozen=True, slots=True)
class DevOptions:
    """The options of the command."""

    files: DevFiles
    port: int
    upstream: str
    timeout: float
    redis: str = ""
    broker: str = ""
    """Address of a broker that runs the hooks; empty: a process of our own."""
    debugpy: int = 0
    names: tuple[str, ...] = ()
    """Host names that requests may have besides those of this machine."""
    show_secrets: bool = False
    """Whether the terminal shows secrets."""


def run(options: DevOptions) -> None:
    """Serve until Ctrl-C. Raises CommandError if that is not possible."""
    set_title(DEV)
    # debugpy's adapter is a daemon, which ends with its debuggers, if at all.
    with tempfile.TemporaryDirectory(prefix="tykpy-dev-") as folder, contextlib.closing(Orphans()):
        asyncio.run(_serve(options, Path(folder)))


async def _serve(options: DevOptions, folder: Path) -> None:
    view = TerminalView(Console(), show_secrets=options.show_secrets)
    stop = asyncio.Event()
    hooks = _hooks(options, folder)
    if isinstance(hooks, HookProcess):
        hooks.on_pause.append(view.pause)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # While a debugger has the terminal, Ctrl-C is for it.
    loop.add_signal_handler(signal.SIGINT, lambda: None if view.is_paused else stop.set())
    async with _gateway(options, hooks) as gateway:
        gateway.observers.append(view.show)
        async with _listening(DevServer(gateway, options.names), options.port) as port:
            address = f"http://localhost:{port}"
            loading = await gateway.load()
            view.tell(f"tykpy dev on {address} (upstream: {options.upstream})", "bold")
            view.tell(f"inspector: {address}{INSPECTOR}")
            view.show_loading(loading)
            gateway.on_load.append(view.show_loading)
            async for _ in saves(options.files, stop):
                view.tell("saved: loading again", "dim")
                await gateway.load()


def _hooks(options: DevOptions, folder: Path) -> LoadingHooks:
    if options.broker:
        return BrokerHooks(options.broker, options.timeout)
    bundle = options.files.bundle
    sources = [] if bundle is None else [str(bundle.absolute())]
    return HookProcess(HookSetup(sources, str(folder), options.redis, options.debugpy), options.timeout)


@contextlib.asynccontextmanager
async def _gateway(options: DevOptions, hooks: LoadingHooks) -> AsyncIterator[DevGateway]:
    upstream = HttpUpstream(options.upstream)
    gateway = DevGateway(options.files, hooks, upstream)
    try:
        yield gateway
    finally:
        await gateway.close()
        await upstream.close()


@contextlib.asynccontextmanager
async def _listening(server: DevServer, port: int) -> AsyncIterator[int]:
    async with contextlib.AsyncExitStack() as running:
        try:
            listening = await running.enter_async_context(server.listening(port))
        except OSError as error:
            raise CommandError(f"port {port} cannot be used ({error.strerror}); --port gives another one") from error
        yield listening
