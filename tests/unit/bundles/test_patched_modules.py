"""What a bundle replaces in the modules that all loops stand on is found out, and by which of two bundles."""

import select
import threading
import time

import pytest

from tykpy.bundles.patched_modules import Primitives


def test_each_replacement_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    primitives = Primitives()
    primitives.remember()
    assert primitives.replaced() == []
    monkeypatch.setattr(select, "select", lambda *_: None)
    monkeypatch.setattr(threading, "Lock", lambda: None)
    assert set(primitives.replaced()) == {"select.select", "threading.Lock"}
    monkeypatch.delattr(time, "sleep")
    assert primitives.replaced() == ["time.sleep"]
    assert primitives.replaced() == []


def test_what_was_replaced_before_the_first_look_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    primitives = Primitives()
    monkeypatch.setattr(select, "select", lambda *_: None)
    primitives.remember()
    primitives.remember()
    assert primitives.replaced() == []
