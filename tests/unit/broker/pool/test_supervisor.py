"""The supervisor's own faults, and workers that do not read or cannot be watched."""

import asyncio
import contextlib
import errno
import os
import selectors
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from tests.unit.broker.pool.test_worker_messages import NamedWorker
from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ReloadError, WorkerStartError
from tykpy.broker.pool.reload import Reloader
from tykpy.broker.pool.starting import WorkerStarter
from tykpy.broker.pool.supervisor import PoolEvents, Supervisor
from tykpy.broker.pool.worker import WorkerPhase
from tykpy.broker.pool.zygote import RENEWAL_DELAY, Zygote, ZygoteKeeper
from tykpy.broker.router.router import Router, RouterOptions

EVENT = {"name": "e", "id": "1", "depth": 0, "document": "{}"}


class Bench:
    """A supervisor whose event loop the test runs, with the callbacks of the composition root."""

    def __init__(self, runtime_dir: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.triggered: list[str] = []
        self.fault: Exception | None = None
        self.config = BrokerConfig(runtime_dir=runtime_dir, workers=1)
        self.router = Router(self.loop, RouterOptions(1, 1))
        events = PoolEvents(lambda ready: None, lambda: None, self.on_event)
        self.zygotes = ZygoteKeeper()
        self.supervisor = Supervisor(self.loop, self.config, self.router, events, zygotes=self.zygotes)

    def on_event(self, name: str, body: Any) -> None:
        """Receive an event, or raise `fault`."""
        self.triggered.append(name)
        if self.fault is not None:
            raise self.fault

    def turn_until(self, condition: Any) -> None:
        """Run the loop until a condition is true."""

        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(poll(), 30))

    def waits_to_write(self, talker: "Talker") -> bool:
        """Say whether the loop waits until it can write to this worker."""
        key = cast(Any, self.loop)._selector.get_map().get(talker.here.fileno())
        return key is not None and bool(key.events & selectors.EVENT_WRITE)

    def close(self) -> None:
        """End it."""
        self.loop.run_until_complete(self.supervisor.stop())
        self.loop.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.closing(Bench(tmp_path)) as made:
        yield made


class Talker(NamedWorker):
    """A worker whose end of the control socket the test has."""

    def __init__(self) -> None:
        super().__init__()
        self.signals: list[int] = []
        process: Any = self.worker.process
        process.kill = lambda: self.signals.append(signal.SIGKILL)
        process.pidfd = os.pidfd_open(os.getpid())
        cast(Any, self.worker.channel).answers_fd = process.pidfd

    def close(self) -> None:
        """Close all."""
        super().close()
        os.close(self.worker.process.pidfd)


@pytest.fixture
def talker() -> Iterator[Talker]:
    with contextlib.closing(Talker()) as made:
        yield made


@pytest.mark.parametrize("fault", [KeyError("x"), TypeError("x"), AttributeError("x"), ValueError("x"), OSError("x")])
def test_a_fault_of_the_broker_kills_no_worker(bench: Bench, talker: Talker, fault: Exception) -> None:
    bench.fault = fault
    for _ in range(2):
        talker.there.send("event", EVENT)
    bench.supervisor._on_control(talker.worker)
    assert (bench.triggered, talker.signals) == (["event"] * 2, [])


def test_a_fault_does_not_drop_the_messages_behind_it(bench: Bench, talker: Talker) -> None:
    bench.fault = KeyError("x")
    talker.there.send("event", EVENT)
    talker.there.send("failed", {"message": "of no use"})
    talker.there.close()
    bench.supervisor._hear_last_messages(talker.worker)
    assert talker.worker.failure == "of no use"


@pytest.mark.parametrize(("name", "body"), [("nonsense", None), ("event", {}), ("failed", {"message": 1})])
def test_a_worker_that_sends_nonsense_is_killed(bench: Bench, talker: Talker, name: str, body: Any) -> None:
    talker.there.send(name, body)
    bench.supervisor._on_control(talker.worker)
    assert talker.signals == [signal.SIGKILL]


def test_an_api_is_told_to_a_worker_admitted_meanwhile(bench: Bench, talker: Talker) -> None:
    bench.router.hooks.note_api("1", "a")
    talker.worker.phase = WorkerPhase.READY
    bench.supervisor._by_slot[0] = talker.worker
    bench.loop.run_until_complete(asyncio.sleep(0))
    assert talker.heard() == [{"1": "a"}]
    del bench.supervisor._by_slot[0]


@pytest.mark.parametrize("before", [True, False], ids=["sent before it was watched", "sent later"])
def test_unsent_messages_follow_when_the_worker_reads(bench: Bench, talker: Talker, before: bool) -> None:
    """Without another message that would flush the rest."""
    apis = {str(number): "a" * 32 for number in range(50_000)}
    if before:
        talker.here.send("apis", apis)
    bench.supervisor._watch(talker.worker)
    if not before:
        talker.here.send("apis", apis)
    assert talker.here.waiting
    heard: list[Any] = []

    def hear() -> bool:
        heard.extend(talker.heard())
        return bool(heard)

    bench.turn_until(hear)
    assert (heard, talker.here.waiting) == ([apis], 0)
    bench.turn_until(lambda: not bench.waits_to_write(talker))
    bench.supervisor._unwatch(talker.worker)


def test_messages_for_a_worker_that_is_gone_are_dropped(bench: Bench, talker: Talker) -> None:
    bench.supervisor._watch(talker.worker)
    talker.here.send("apis", "x" * 1_000_000)
    talker.there.close()
    bench.turn_until(lambda: not bench.waits_to_write(talker))
    bench.supervisor._unwatch(talker.worker)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


def test_a_worker_that_cannot_be_watched_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_reader(descriptor: int, *_callback: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = children()
    monkeypatch.setattr(bench.loop, "add_reader", add_reader)
    with pytest.raises(WorkerStartError, match="No space left"):
        bench.supervisor.spawn(0, bench.supervisor)
    assert (children(), bench.supervisor.describe()) == (before, [])


def test_a_worker_that_cannot_be_configured_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is tried later, whatever the reason."""
    before = children()
    files = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(WorkerStarter, "_worker_config", lambda _self, _pinned: {"bundles": "\udcff"})
    with pytest.raises(WorkerStartError, match="UnicodeEncodeError"):
        bench.supervisor.spawn(0, bench.supervisor)
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) <= files
    bench.supervisor._fill(0)
    assert bench.supervisor._by_slot == {}
    monkeypatch.undo()
    bench.turn_until(lambda: 0 in bench.supervisor._by_slot)


def test_a_reload_after_a_fault_of_the_broker_works(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[object] = []
    reloader = Reloader(bench.loop, bench.config, bench.supervisor, bench.router)
    monkeypatch.setattr("tykpy.broker.pool.reload.Generation.start", lambda self: self._done(None))
    monkeypatch.setattr(bench.router.quarantine, "clear", lambda: 1 // 0)
    for _ in range(2):
        reloader.request(outcomes.append)
    assert [type(outcome) for outcome in outcomes] == [ReloadError] * 2
    assert "ZeroDivisionError" in str(outcomes[0])


def test_a_zygote_is_renewed_although_a_try_failed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tykpy.broker.pool.zygote.RENEWAL_DELAY", RENEWAL_DELAY / 100)
    tries: list[int] = []
    start = Zygote.__init__

    def started(self: Zygote, life: int) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise LookupError
        start(self, life)

    monkeypatch.setattr(Zygote, "__init__", started)
    bench.loop.call_soon(bench.zygotes._renew, bench.loop)
    bench.turn_until(lambda: bench.zygotes._zygote is not None and bench.zygotes._zygote.is_ready)
    assert len(tries) == 2


def test_a_dead_worker_is_replaced_although_a_fault_occurs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Router, "lost", lambda *_: 1 // 0)
    bench.supervisor._fill(0)
    first = bench.supervisor._by_slot[0]
    bench.turn_until(lambda: first in bench.supervisor.serving)
    first.process.kill()
    bench.turn_until(lambda: bench.supervisor.serving not in ([], [first]))
    assert bench.supervisor.restarts == 1


def test_a_hung_worker_is_killed_although_a_fault_occurs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Router, "leave", lambda *_: 1 // 0)
    bench.supervisor._fill(0)
    first = bench.supervisor._by_slot[0]
    bench.turn_until(lambda: first in bench.supervisor.serving)
    assert first.link is not None
    first.link.silent = True
    bench.supervisor._stopper._end_hung(first)
    bench.turn_until(lambda: first.generation not in cast(Any, bench.supervisor)._workers)
