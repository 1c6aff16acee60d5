"""The pytest plugin, loaded in every run of pytest where tykpy is installed: it imports nothing until it is used."""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tyk.gateway.backend import MemoryStorage
    from tyk.gateway.testing import FakeGateway, ManualClock, TriggeredEvent
    from tykpy.testing.calling import HookCaller

_CALLER: pytest.StashKey["HookCaller"] = pytest.StashKey()


@pytest.fixture
def _tyk_fake() -> Iterator["FakeGateway"]:
    from tyk.gateway.testing import fake_gateway

    with fake_gateway() as fake:
        yield fake


@pytest.fixture
def tyk_store(_tyk_fake: "FakeGateway") -> "MemoryStorage":
    """Return the store that hooks read and write, in memory and empty at the start of the test."""
    return _tyk_fake.storage


@pytest.fixture
def tyk_clock(_tyk_fake: "FakeGateway") -> "ManualClock":
    """Return the clock of the store: values expire when `advance(seconds)` has passed their time to live."""
    return _tyk_fake.clock


@pytest.fixture
def tyk_events(_tyk_fake: "FakeGateway") -> "list[TriggeredEvent]":
    """Return the events that hooks have triggered so far, each with `name` and `payload`."""
    return _tyk_fake.events


@pytest.fixture
def tyk_call(request: pytest.FixtureRequest, _tyk_fake: "FakeGateway") -> "HookCaller":
    """Return a function that calls one hook as a worker does, and returns a `HookResult`."""
    from tykpy.testing.calling import HookCaller

    caller = HookCaller()
    request.node.stash[_CALLER] = caller
    return caller


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what each hook of a failed test changed."""
    report = yield
    caller = item.stash.get(_CALLER, None)
    if caller is not None and report.failed and call.when == "call":
        report.sections.extend(("hook call", str(result)) for result in caller.results)
    return report
