"""The first thing a broker does when a worker dies: it answers the worker's callers."""

import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import PATIENCE
from tests.support.hooks import SOURCE
from tests.support.peers.attacker import Attacker
from tykpy.broker.app import Broker
from tykpy.broker.config import BrokerConfig
from tykpy.broker.net.listeners import Listeners
from tykpy.broker.pool.starting import WorkerStarter
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.broker.start import loop_factory
from tykpy.commands.objects import CallDescription, build_object
from tykpy.ipc.channel.broker_end import BrokerChannel

TOLD = b"was ended by SIGKILL while it ran this hook (kills_itself)"


@pytest.fixture(scope="module", autouse=True)
def pipe_of_libuv() -> None:
    """Let libuv open its signal pipe, which it never closes, before the tests look for leaks."""
    loop_factory("uvloop")().close()


@pytest.fixture
def config(tmp_path: Path) -> Iterator[BrokerConfig]:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "hooks.py").write_text(SOURCE)
    runtime = Path(tempfile.mkdtemp(prefix="tykpy-"))
    yield BrokerConfig(bundles=bundles, workers=1, runtime_dir=runtime)
    shutil.rmtree(runtime)


class Spy:
    """Records whether the caller had its answer when the broker first did something else."""

    def __init__(self, caller: Attacker) -> None:
        self._socket = caller._socket
        self.seen: dict[str, bool] = {}
        """Whether the caller had its answer, by the name of the method that was called."""

    def told(self) -> bool:
        """Return whether the caller can read its answer by now."""
        try:
            return TOLD in self._socket.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def watch(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        """Check the caller's socket just before the first call of this method."""
        method: Callable[..., Any] = getattr(owner, name)

        def looked(*args: Any, **kwargs: Any) -> Any:
            if name not in self.seen:
                self.seen[name] = self.told()
            return method(*args, **kwargs)

        monkeypatch.setattr(owner, name, looked)


@contextlib.asynccontextmanager
async def serving(config: BrokerConfig, listeners: Listeners) -> AsyncIterator[None]:
    """Run the broker in this process, with all workers ready."""
    zygotes = ZygoteKeeper()
    zygotes.open()
    broker = Broker(config, asyncio.get_running_loop(), listeners, zygotes)
    try:
        await broker.open()
        await until(lambda: len(broker.router.pool) == config.workers)
        yield
    finally:
        await broker.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
def test_callers_fail_before_cleanup(config: BrokerConfig, event_loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller gets its error before memory is released and before the next worker is started."""
    call = build_object(CallDescription("kills_itself", bundle="hooks")).SerializeToString()

    async def run(listeners: Listeners) -> dict[str, bool]:
        async with serving(config, listeners):
            with Attacker(str(config.runtime_dir / "tyk.sock")) as caller:
                spy = Spy(caller)
                spy.watch(monkeypatch, BrokerChannel, "close")
                spy.watch(monkeypatch, WorkerStarter, "start")
                caller.send(caller.request(1, call))
                await until(lambda: len(spy.seen) == 2)
                return spy.seen

    with (
        contextlib.closing(Listeners.open(config)) as listeners,
        asyncio.Runner(loop_factory=loop_factory(event_loop)) as runner,
    ):
        assert runner.run(run(listeners)) == {"close": True, "start": True}
