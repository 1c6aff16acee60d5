"""`TykGateway` outside a worker, and the functions that install a backend."""

import importlib
import logging
from typing import Any

import pytest

import tyk.gateway
from tyk.gateway import Backend, TykGateway, current, install, restore
from tyk.gateway.api import MAX_TTL_S, check_ttl
from tyk.gateway.backend import PURGE_EVERY_STORES, MemoryStorage
from tyk.gateway.testing import ManualClock, fake_gateway


def test_one_class_behind_both_names() -> None:
    top_level = importlib.import_module("gateway")
    assert top_level.TykGateway is tyk.gateway.TykGateway
    assert top_level.install is tyk.gateway.install


def test_values_are_stored_outside_a_worker() -> None:
    previous = current()
    restore(Backend())
    TykGateway.store_data("key", "value", 60)
    assert TykGateway.get_data("key") == b"value"
    restore(previous)


def test_an_instance_works_as_the_class_does() -> None:
    with fake_gateway():
        TykGateway().store_data("key", "value")
        assert TykGateway().get_data("key") == b"value"


@pytest.mark.parametrize("value", [None, True, ["x"], {"a": 1}, object()])
def test_a_value_of_another_type_is_refused(value: Any) -> None:
    with fake_gateway(), pytest.raises(TypeError, match="a stored value is str, bytes, int or float"):
        TykGateway.store_data("key", value, 0)


@pytest.mark.parametrize("key", [None, b"key", 1])
def test_a_key_is_a_string(key: Any) -> None:
    with fake_gateway():
        with pytest.raises(TypeError, match="a key is a str"):
            TykGateway.store_data(key, "value", 0)
        with pytest.raises(TypeError, match="a key is a str"):
            TykGateway.get_data(key)


@pytest.mark.parametrize(
    ("ttl", "error"), [("60", TypeError), (None, TypeError), (True, TypeError), (float("nan"), ValueError)]
)
def test_a_ttl_is_a_number(ttl: Any, error: type[Exception]) -> None:
    with fake_gateway(), pytest.raises(error, match=r"ttl is a .*number of seconds"):
        TykGateway.store_data("key", "value", ttl)


def test_ttls_are_limited_to_what_stores_can_hold() -> None:
    assert check_ttl(-1) == 0
    assert check_ttl(1.5) == 1.5
    assert check_ttl(10**30) == MAX_TTL_S


def test_values_expire_by_the_fake_gateways_clock() -> None:
    with fake_gateway() as gateway:
        TykGateway.store_data("goes", "value", 10)
        TykGateway.store_data("stays", "value", 0)
        gateway.clock.advance(9.9)
        assert TykGateway.get_data("goes") == b"value"
        gateway.clock.advance(0.1)
        assert TykGateway.get_data("goes") == b""
        assert TykGateway.get_data("stays") == b"value"


def test_expired_values_are_purged() -> None:
    clock = ManualClock()
    storage = MemoryStorage(clock)
    for number in range(PURGE_EVERY_STORES - 1):
        storage.store(str(number), b"value", 1)
    assert len(storage._values) == PURGE_EVERY_STORES - 1
    clock.advance(1)
    storage.store("last", b"value", 1)
    assert len(storage._values) == 1


def test_events_are_remembered() -> None:
    with fake_gateway() as gateway:
        TykGateway.trigger_event("Quota", '{"left": 1}')
        TykGateway.trigger_event("Quota", {"left": 0})
        assert gateway.events == [("Quota", '{"left": 1}'), ("Quota", '{"left": 0}')]


@pytest.mark.parametrize("payload", [None, 1, b"bytes", ["a"]])
def test_an_event_payload_is_a_string_or_a_mapping(payload: Any) -> None:
    with fake_gateway(), pytest.raises(TypeError, match="an event's payload is a str or a mapping"):
        TykGateway.trigger_event("Quota", payload)


def test_events_outside_a_worker_are_ignored() -> None:
    previous = current()
    restore(Backend())
    TykGateway.trigger_event("Quota", {"left": 0})
    restore(previous)


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", logging.DEBUG),
        ("error", logging.ERROR),
        ("warning", logging.WARNING),
        ("info", logging.INFO),
        ("anything", logging.INFO),
    ],
)
def test_log_levels(level: str, logged: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tykpy.plugin")
    TykGateway.log("100 % %s", level)
    assert caplog.record_tuples == [("tykpy.plugin", logged, "100 % %s")]


def test_log_error_and_other_objects(caplog: pytest.LogCaptureFixture) -> None:
    TykGateway.log_error(ValueError("bad"))
    assert caplog.record_tuples == [("tykpy.plugin", logging.ERROR, "bad")]


def test_messages_go_through_the_installed_sink() -> None:
    with fake_gateway() as gateway:
        TykGateway.log("hello", "debug")
        TykGateway.log_error("oh")
        assert gateway.messages == [("debug", "hello"), ("error", "oh")]


def test_install_replaces_parts_and_returns_the_previous() -> None:
    before = current()
    storage = MemoryStorage()
    previous = install(storage=storage)
    assert previous is before
    assert (current().storage, current().trigger, current().log) == (storage, before.trigger, before.log)
    restore(previous)
    assert current() is before


def test_the_fake_gateway_ends_with_its_block() -> None:
    before = current()
    with pytest.raises(KeyError), fake_gateway():
        raise KeyError
    assert current() is before
