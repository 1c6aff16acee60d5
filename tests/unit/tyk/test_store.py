"""`tyk.store` by itself: what it refuses, and what it does without a store that works."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tyk import store
from tyk.errors import StoreUnavailableError, TykError
from tyk.gateway import TykGateway, install, restore
from tyk.gateway.api import MAX_KEY, MAX_VALUE
from tyk.gateway.backend import MemoryStorage
from tyk.gateway.commands import Command, Get, Increment
from tyk.gateway.testing import fake_gateway
from tyk.storage import MAX_BATCH


class Down(MemoryStorage):
    """A storage that does not work."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Command] = []

    def execute(self, command: Command) -> Any:
        self.asked.append(command)
        raise StoreUnavailableError("it is down")


@pytest.fixture
def down() -> Iterator[Down]:
    storage = Down()
    previous = install(storage)
    yield storage
    restore(previous)


@pytest.mark.parametrize(
    "use",
    [
        lambda: store.get("key"),
        lambda: store.set("key", 1),
        lambda: store.set_if_absent("key", 1),
        lambda: store.delete("key"),
        lambda: store.incr("key"),
        lambda: store.expire("key", 1),
        lambda: store.get_many(["key"]),
        lambda: store.set_many({"key": 1}),
        lambda: store.delete_many(["key"]),
        lambda: store.get_json("key"),
        lambda: store.set_json("key", 1),
        lambda: asyncio.run(store.aget("key")),
        lambda: asyncio.run(store.aincr("key")),
    ],
)
def test_a_store_that_does_not_work_is_an_error(down: Down, use: Callable[[], object]) -> None:
    with pytest.raises(StoreUnavailableError, match="it is down") as caught:
        use()
    assert isinstance(caught.value, TykError)


def test_a_default_stands_in_for_a_store_that_does_not_work(down: Down) -> None:
    assert store.get("key", None) is None
    assert store.get("key", b"default") == b"default"
    assert store.get_json("key", {"a": 1}) == {"a": 1}
    assert asyncio.run(store.aget("key", 7)) == 7


def test_a_storage_sees_commands_as_data(down: Down) -> None:
    store.get("a", None)
    with pytest.raises(StoreUnavailableError):
        store.incr("n", 2, ttl=1e12)
    assert down.asked == [Get(("a",)), Increment("n", 2, 100 * 365 * 24 * 3600.0)]
    assert [command.name for command in down.asked] == ["get", "incr"]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: store.get(b"key"), "a key is a str, not bytes"),  # type: ignore[call-overload]
        (lambda: store.set("key", None), "a stored value is str, bytes, int or float, not NoneType"),  # type: ignore[arg-type]
        (lambda: store.set("key", 1, "1"), "ttl is a number of seconds"),  # type: ignore[arg-type]
        (lambda: store.set("key", 1, float("nan")), "ttl is a finite number"),
        (lambda: store.incr("key", 1.0), "amount is an integer of 64 bits"),  # type: ignore[arg-type]
        (lambda: store.incr("key", True), "amount is an integer of 64 bits"),
        (lambda: store.incr("key", 2**63), "amount is an integer of 64 bits"),
        (lambda: store.expire("key", 0), "ttl is a number of seconds above 0"),
        (lambda: store.get_many("keys"), "a list of str, not one str"),
        (lambda: store.get_many(map(str, range(MAX_BATCH + 1))), "split it, 1000 are the limit"),
        (lambda: store.set_many(dict.fromkeys(map(str, range(MAX_BATCH + 1)), 1)), "split it"),
        (lambda: store.get("k" * (MAX_KEY + 1)), "a key has at most 65536 characters, not 65537"),
        (lambda: store.set("key", bytes(MAX_VALUE + 1)), "at most 16777216 bytes, not 16777217"),
        (lambda: store.set("key", "\u00e9" * (MAX_VALUE // 2 + 1)), "at most 16777216 bytes"),
        (lambda: store.set_many({"a": 1, "b": bytes(MAX_VALUE + 1)}), "at most 16777216 bytes"),
        (lambda: TykGateway.store_data("key", bytes(MAX_VALUE + 1)), "at most 16777216 bytes"),
        (lambda: store.set_json("key", {1, 2}), "set is not JSON serializable"),
        (lambda: store.set_json("key", float("nan")), "not JSON compliant"),
    ],
)
def test_what_cannot_be_stored_is_refused(down: Down, use: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        use()
    assert down.asked == []


def test_the_store_of_a_test_follows_its_clock() -> None:
    with fake_gateway() as gateway:
        assert store.incr("n", ttl=60) == 1
        gateway.clock.advance(59)
        assert (store.incr("n"), store.expire("n", 60)) == (2, True)
        gateway.clock.advance(60)
        assert (store.incr("n"), store.delete("n"), store.delete("n")) == (1, True, False)
