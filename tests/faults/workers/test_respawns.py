"""Workers that are killed and replaced again and again leave nothing behind in the broker."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import psutil
import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE
from tests.support.peers.rpc_client import PipelinedRpcClient

WORKERS: Final = 2
WARM_UP: Final = 50
"""Respawns of the long form after which memory has taken its shape: the allocator's arenas, caches, late imports."""
MIB: Final = 1024 * 1024
MOST_GROWTH: Final = 5 * MIB


class Holdings(NamedTuple):
    """What a broker holds while all its workers are ready and nothing runs."""

    descriptors: int
    threads: int
    memory: int
    """Its own (USS), in bytes."""


def holdings(broker: RunningBroker, client: PipelinedRpcClient) -> Holdings:
    # What is answered here came after the ends of all other connections, and the second time they are closed.
    for _ in range(2):
        client.call("status")
    process = psutil.Process(broker.pid)
    return Holdings(process.num_fds(), process.num_threads(), process.memory_full_info().uss)


def ready(broker: RunningBroker) -> set[int]:
    """Return the processes of the workers once all serve; none before."""
    workers = broker.status()["workers"]
    return {row["pid"] for row in workers} if [row["state"] for row in workers] == ["ready"] * WORKERS else set()


def by_sigkill(broker: RunningBroker) -> None:
    """Kill a worker that has answered: one that has not would be replaced later each time."""
    worker = broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"]
    os.kill(int(worker), signal.SIGKILL)


def by_reload(broker: RunningBroker) -> None:
    """Replace all workers at once."""
    with broker.admin() as client:
        client.call("reload", timeout=60)


def respawn(broker: RunningBroker, times: int, end: Callable[[RunningBroker], None]) -> None:
    """Replace workers again and again, each time once all are ready."""
    before = ready(broker)
    for _ in range(times):
        end(broker)
        wait_until(lambda: ready(broker) not in (set(), before), lambda: str(broker.status()["workers"]))  # noqa: B023
        before = ready(broker)


def respawn_and_compare(folder: Path, warm_up: int, times: int, end: Callable[[RunningBroker], None]) -> None:
    with running_broker(folder, workers=WORKERS, files={"hooks.py": SOURCE}) as broker, broker.admin() as client:
        respawn(broker, warm_up, end)
        before = holdings(broker, client)
        respawn(broker, times, end)
        after = holdings(broker, client)
        broker.check_accounts()
    growth = (after.memory - before.memory) / MIB
    print(f"{times} respawns {end.__name__}: {before} -> {after}, {growth:+.2f} MiB")
    assert (after.descriptors, after.threads) == (before.descriptors, before.threads)
    assert after.memory - before.memory <= MOST_GROWTH


@pytest.mark.parametrize("end", [by_sigkill, by_reload])
def test_respawns_leak_nothing(tmp_path: Path, end: Callable[[RunningBroker], None]) -> None:
    respawn_and_compare(tmp_path, 2, 6, end)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_1000_respawns_leak_nothing(tmp_path: Path) -> None:
    respawn_and_compare(tmp_path, WARM_UP, 1000, by_sigkill)
