"""Names that peers and plugins choose are remembered in a bounded number of bytes, however long they are."""

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tykpy.broker.catalog.api_table import MAX_APIS, ApiTable
from tykpy.broker.router.deaths import Cause, Quarantine
from tykpy.broker.router.hook_table import EVENT_SHAPE, HookTable
from tykpy.broker.router.peek import peek, peek_map
from tykpy.ipc.channel.control import MAX_CONTROL_BYTES
from tykpy.workers.api_bundles import ApiBundles
from tykpy.workers.objects.chain import _canonical

LONG = 1_000_000
"""Length of a name, in characters."""
NAMES = 20
ALLOWED = 3_000_000
"""Growth that is too much, in bytes: three remembered names."""


def named(number: int) -> str:
    return f"{number:09}" + "x" * LONG


def object_map(**fields: Any) -> bytes:
    return msgpack.packb({"hook_type": 1, **fields})  # type: ignore[no-any-return]


class Blamed:
    """Have hooks of many names kill workers."""

    def __init__(self) -> None:
        self.quarantine = Quarantine(10.0)

    def __call__(self, name: str) -> None:
        for _ in range(3):
            self.quarantine.blame([RecordedDispatch(object_bytes(name, bundle_hash=name))], Cause.CRASH)


class Reloaded:
    """Reload bundles whose event handlers change their names each time."""

    def __init__(self) -> None:
        self.hooks = HookTable()

    def __call__(self, name: str) -> None:
        self.hooks.update([{"hooks": [{"name": name, "shape": EVENT_SHAPE}]}])
        self.hooks.update([])


class Seen:
    """Have a worker see many APIs, and ask it for them."""

    def __init__(self) -> None:
        self.apis = ApiBundles()

    def __call__(self, name: str) -> None:
        self.apis.remember(name, "a")
        assert self.apis.find(name) is None


@pytest.mark.parametrize(
    "remember",
    [
        lambda name: peek(object_bytes(name)),
        lambda name: peek(object_bytes("hook", bundle_hash=name)),
        lambda name: peek_map(object_map(hook_name=name)),
        lambda name: peek_map(object_map(hook_name="hook", spec={"bundle_hash": name})),
        Blamed(),
        Reloaded(),
        Seen(),
        _canonical,
    ],
    ids=[
        "peek",
        "peek's spec",
        "map",
        "map's spec",
        "quarantine",
        "handlers",
        "APIs",
        "headers",
    ],
)
def test_long_names_are_not_remembered(remember: Callable[[str], object]) -> None:
    remember(named(0))
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, NAMES):
            remember(named(number))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < ALLOWED


def test_the_apis_for_a_new_worker_fit_into_one_message() -> None:
    table = ApiTable()
    for number in range(MAX_APIS - 1):
        table.note(f"{number:063}\u20ac", "\u20ac" * 192, [])
    assert len(msgpack.packb(table._bundle_hashes)) < MAX_CONTROL_BYTES


def test_the_apis_of_a_real_gateway_are_all_remembered() -> None:
    table = ApiTable()
    for number in range(MAX_APIS - 1):
        table.note(f"{number:032}", "a" * 32, [])
    assert len(table._bundle_hashes) == MAX_APIS - 1


def test_old_event_handlers_are_forgotten() -> None:
    hooks = HookTable()
    for number in range(3000):
        hooks.update([{"hooks": [{"name": f"handler{number}", "shape": EVENT_SHAPE}]}])
    assert "handler2999" in hooks.event_handlers
    assert len(hooks.event_handlers) < 1100
