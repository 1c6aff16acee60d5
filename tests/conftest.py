"""Fixtures for all tests, and the check that each leaves nothing behind.

No test of a property fails for being slow either: the machine may be busy with other things.
"""

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tykpy.ipc.title import BROKER, DEV

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

SHARED_MEMORY = Path("/dev/shm")
OURS = "tykpy-*"
"""Other programs of the machine may use shared memory while we run."""
COUNTERS = "tykpy-live-"
"""Starts the names of what brokers have there; those of a test's own are looked after by `RunningBroker`."""
PATIENCE = 2.0
"""Seconds for what a test has let go of to be gone."""
LOOK_AGAIN = 0.02
"""Seconds."""


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No child process, shared memory, descriptor or thread survives a test.

    Fixtures of a wider scope are set up before this one looks, so what they hold is theirs.
    """
    for name in request.fixturenames:
        if name != "nothing_left_behind" and _scope_of(request, name) != "function":
            request.getfixturevalue(name)
    before = _inventory()
    yield
    left = _added(before)
    patience = time.monotonic() + PATIENCE
    while left and time.monotonic() < patience:
        # A library's own threads may still be closing what they had.
        gc.collect()
        time.sleep(LOOK_AGAIN)
        left = _added(before)
    assert not left, f"left behind: {left}"


def _added(before: dict[str, set[str]]) -> dict[str, list[str]]:
    return {what: sorted(now - before[what]) for what, now in _inventory().items() if now - before[what]}


def _scope_of(request: pytest.FixtureRequest, name: str) -> str:
    definitions = request._fixturemanager.getfixturedefs(name, request.node)
    return definitions[-1].scope if definitions else "function"


def _inventory() -> dict[str, set[str]]:
    return {
        "processes": set(_descendants(os.getpid())),
        "shared memory": {entry.name for entry in SHARED_MEMORY.glob(OURS) if not entry.name.startswith(COUNTERS)},
        "descriptors": set(_descriptors()),
        "threads": {thread.name for thread in threading.enumerate()},
    }


def _descendants(pid: int) -> Iterator[str]:
    # Asking the kernel for the children is much cheaper than looking at every process of the machine.
    for thread in _numbers(f"/proc/{pid}/task"):
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            try:
                name, _, rest = Path(f"/proc/{child}/stat").read_text().partition(" (")[2].rpartition(") ")
            except OSError:
                continue
            if not rest.startswith("Z"):
                yield f"{child} {name}"
            # These, of a wider scope, may replace their workers at any time; without them, workers are ours.
            if name not in (BROKER, DEV):
                yield from _descendants(child)


def _numbers(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder)]
    except OSError:
        return []


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        yield f"{name} {target}"
