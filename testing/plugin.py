"""The pytest plugin, loaded in every run of pytest where tykpy is installed: it imports nothing until it is used."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tyk.gateway.backend import MemoryStorage
    from tyk.gateway.testing import FakeGateway, ManualClock, TriggeredEvent
    from tykpy.testing.calling import HookCaller
    from tykpy.testing.gateway import GatewayClient
    from tykpy.testing.metrics import MetricValues

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
    """Return the clock of `tyk.time()` and the store: both move only by `advance(seconds)`."""
    return _tyk_fake.clock


@pytest.fixture
def tyk_events(_tyk_fake: "FakeGateway") -> "list[TriggeredEvent]":
    """Return the events that hooks have triggered so far, each with `name` and `payload`."""
    return _tyk_fake.events


@pytest.fixture
def tyk_metrics(_tyk_fake: "FakeGateway") -> "MetricValues":
    """Return a function that gives the value of a plugin metric: `tyk_metrics("requests_total", api="7")`."""
    from tykpy.testing.metrics import MetricValues

    return MetricValues()


@pytest.fixture
def tyk_call(request: pytest.FixtureRequest, _tyk_fake: "FakeGateway") -> "HookCaller":
    """Return a function that calls one hook as a worker does, and returns a `HookResult`."""
    from tykpy.testing.calling import HookCaller

    caller = HookCaller()
    request.node.stash[_CALLER] = caller
    return caller


@pytest.fixture
def tyk_gateway(request: pytest.FixtureRequest, _tyk_fake: "FakeGateway") -> Iterator["GatewayClient"]:
    """Return a client of a gateway that serves a bundle in this process; needs the extra `tykpy[dev]`.

    The mark `tyk_gateway` says what it serves: `bundle` (default: the folder with a manifest.json that has the test, or
    contains its folder), `apis` (files with API definitions), `upstream` ("echo", a URL, or a function from a request
    to status, headers and body), `keys` (sessions by key), `workers` (a real pool with so many; default: hooks run in
    the test's process). Paths are relative to the test's file.
    """
    try:
        from tykpy.testing.gateway import GatewayClient
    except ModuleNotFoundError as error:
        raise pytest.UsageError(f"tyk_gateway needs the extra: pip install 'tykpy[dev]' ({error})") from error
    mark = request.node.get_closest_marker("tyk_gateway")
    options = dict(mark.kwargs) if mark is not None else {}
    folder = request.path.parent
    bundle = folder / options.pop("bundle") if "bundle" in options else _bundle_of(folder)
    apis = [folder / api for api in options.pop("apis", ())]
    client = GatewayClient(_tyk_fake, bundle, apis=apis, **options)
    yield client
    client.close()


def _bundle_of(folder: Path) -> Path:
    for candidate in (folder, *folder.parents):
        if (candidate / "manifest.json").exists():
            return candidate
    raise pytest.UsageError(
        f"no manifest.json in {folder} and above; name the bundle: @pytest.mark.tyk_gateway(bundle=...)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "tyk_gateway(bundle, apis, upstream, keys, workers): what tyk_gateway serves")


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
