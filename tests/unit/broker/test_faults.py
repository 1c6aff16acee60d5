"""Faults of the broker itself: each affects one item, is logged once, and ends nothing that runs periodically."""

import asyncio
import contextlib
import gc
import itertools
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from tykpy.broker import faults
from tykpy.broker.app import Broker
from tykpy.broker.config import BrokerConfig
from tykpy.broker.connections import Connections
from tykpy.broker.faults import Periodic, each, report
from tykpy.broker.net.listeners import Listeners
from tykpy.broker.pool.trim import trim_memory
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.telemetry.rate_limited_log import QuietLog


@pytest.fixture(autouse=True)
def notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been logged yet."""
    monkeypatch.setattr(faults, "_notices", QuietLog(faults.log))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with contextlib.closing(asyncio.new_event_loop()) as made:
        yield made


def fail(item: object = None) -> None:
    raise LookupError(f"no {item}")


def test_one_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    each(lambda number: done.append(6 // number), [0, 2, 0, 3])
    assert done == [3, 2]
    (record,) = caplog.records
    assert "ZeroDivisionError" in record.message
    assert "Traceback" in caplog.text


def test_faults_of_different_places_are_both_logged(caplog: pytest.LogCaptureFixture) -> None:
    for fault in (ValueError("x"), ValueError("y"), KeyError("z")):
        report(fault)
    assert len(caplog.records) == 2


def test_a_periodic_action_that_raises_runs_again(loop: asyncio.AbstractEventLoop) -> None:
    runs = itertools.count(1)

    def act() -> None:
        if next(runs) == 3:
            loop.stop()
        fail()

    periodic = Periodic(loop, 0.001, act)
    periodic.start()
    loop.run_forever()
    assert (next(runs), periodic._timer is not None) == (4, True)
    periodic.stop()
    assert periodic._timer is None


def test_an_action_can_stop_its_own_repetition(loop: asyncio.AbstractEventLoop) -> None:
    runs: list[int] = []

    def act() -> None:
        runs.append(1)
        periodic.stop()
        loop.call_later(0.01, loop.stop)

    periodic = Periodic(loop, 0.001, act)
    periodic.start()
    periodic.start()
    loop.run_forever()
    assert runs == [1]


def test_connections_behind_one_that_fails_are_swept() -> None:
    class Connection:
        def __init__(self, *, broken: bool) -> None:
            self.broken, self.swept = broken, 0

        def sweep(self, now: float) -> None:
            self.swept += 1
            if self.broken:
                fail()

        def abort(self) -> None: ...

    async def scenario() -> None:
        made = [Connection(broken=True), Connection(broken=False), Connection(broken=True)]
        connections: Connections[Connection] = Connections(asyncio.get_running_loop(), limit=3)
        for connection in made:
            connections.add(connection)
        for _ in range(2):
            connections._sweep_slowly()
        assert [connection.swept for connection in made] == [2, 2, 2]
        for connection in made:
            connections.discard(connection)

    asyncio.run(scenario())


def test_memory_is_given_back_although_the_store_fails(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies, asked = BodyStore(1 << 20), list[int]()

    def channels() -> list[BrokerChannel]:
        asked.append(1)
        return []

    monkeypatch.setattr(bodies, "trim", fail)
    trim_memory(bodies, channels())
    assert asked == [1]
    bodies.close()


@contextlib.contextmanager
def composed(folder: Path) -> Iterator[tuple[BrokerConfig, Listeners, ZygoteKeeper]]:
    """Return the arguments of a Broker."""
    config = BrokerConfig(runtime_dir=folder, workers=2)
    with contextlib.closing(Listeners.open(config)) as listeners, contextlib.closing(ZygoteKeeper()) as zygotes:
        yield config, listeners, zygotes


def test_callbacks_that_raise_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(config: BrokerConfig, listeners: Listeners, zygotes: ZygoteKeeper) -> None:
        loop = asyncio.get_running_loop()
        broker = Broker(config, loop, listeners, zygotes)
        loop.set_exception_handler(broker._on_callback_fault)
        for _ in range(5):
            loop.call_soon(fail)
        await asyncio.sleep(0)
        await broker.close()

    with composed(tmp_path) as parts:
        asyncio.run(scenario(*parts))
    assert sum("LookupError" in record.message for record in caplog.records) == 1


def test_the_heap_is_frozen_once(tmp_path: Path) -> None:
    """Frozen objects are never collected, so not a second time, when there are calls and workers that will end."""

    class Call:
        def __init__(self) -> None:
            self.own = self

    async def scenario(config: BrokerConfig, listeners: Listeners, zygotes: ZygoteKeeper) -> None:
        broker = Broker(config, asyncio.get_running_loop(), listeners, zygotes)
        broker._on_ready_count(2)
        assert gc.get_freeze_count()
        call = Call()
        watch = weakref.ref(call)
        for ready in (1, 2):
            broker._on_ready_count(ready)
        del call
        gc.collect()
        assert watch() is None
        await broker.close()

    with composed(tmp_path) as parts:
        asyncio.run(scenario(*parts))
    gc.unfreeze()
