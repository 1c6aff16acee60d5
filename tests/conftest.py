"""Fixtures for all tests, and the check that each leaves nothing behind."""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SHARED_MEMORY = Path("/dev/shm")
OURS = "tykpy-*"
"""Other programs of the machine may use shared memory while we run."""


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
    gc.collect()
    left = {what: sorted(now - before[what]) for what, now in _inventory().items() if now - before[what]}
    assert not left, f"left behind: {left}"


def _scope_of(request: pytest.FixtureRequest, name: str) -> str:
    definitions = request._fixturemanager.getfixturedefs(name, request.node)
    return definitions[-1].scope if definitions else "function"


def _inventory() -> dict[str, set[str]]:
    children = psutil.Process().children(recursive=True)
    return {
        "processes": {f"{child.pid} {child.name()}" for child in children if child.status() != "zombie"},
        "shared memory": {entry.name for entry in SHARED_MEMORY.glob(OURS)},
        "descriptors": set(_descriptors()),
        "threads": {thread.name for thread in threading.enumerate()},
    }


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        yield f"{name} {target}"
