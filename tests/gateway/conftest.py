"""One gateway of each style, with a broker and a Redis, for all tests; those that stop one of them start their own."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.gateway.dev import NAME as DEV
from tests.support.gateway.go_gateway import go_program, grpcurl
from tests.support.gateway.table import Backend, Table, running_backend, running_table
from tests.support.gateway.tyk import BINARY, STYLES

GO = "go"
GO_ONLY = (
    "test_section_7_balancing",
    "test_section_7_connection",
    "test_section_7_grpcurl",
    "test_metadata",
    "test_tls",
)
"""Modules about the connection of gateway and broker, which `tykpy dev` has only for these tests."""
PROGRAMS = ("gateway", "msgpackclient", "bundlecrypto", "tlsclient")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before any test's time limit starts: the first build takes minutes."""
    if any(Path(__file__).parent in item.path.parents for item in session.items):
        try:
            for name in PROGRAMS:
                go_program(name)
            grpcurl()
        except (pytest.skip.Exception, pytest.fail.Exception, AssertionError):
            # Every test that needs them reports this itself.
            return


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need the test gateway if a real one is used, and those that are not for `tykpy dev`."""
    for item in items:
        marker = item.get_closest_marker("harness") if BINARY else None
        if f"[{DEV}" in item.name:
            marker = item.get_closest_marker("not_dev")
        if marker is not None:
            item.add_marker(pytest.mark.skip(reason=marker.args[0]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test twice: through the gateway in Go and `tykpy dev`; or, with classic and OAS APIs, through Tyk."""
    if "table" not in metafunc.fixturenames:
        return
    if BINARY:
        metafunc.parametrize("table", STYLES, indirect=True, scope="module")
    else:
        is_for_dev = metafunc.module.__name__.rpartition(".")[2] not in GO_ONLY
        metafunc.parametrize("table", (GO, DEV) if is_for_dev else (GO,), indirect=True, scope="module")


class Tables:
    """A gateway of each style, from its first use on."""

    def __init__(self, running: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._running = running
        self._tmp_path_factory = tmp_path_factory
        self._backends: dict[str, Backend] = {}
        self._tables: dict[str, Table] = {}

    def of(self, style: str) -> Table:
        """Return the table of a style."""
        if style not in self._tables:
            # A real gateway keeps sessions and quotas in Redis, and the same tests follow in the other style.
            backend = self._backend(style if BINARY else "")
            self._tables[style] = self._running.enter_context(running_table(backend, style))
        return self._tables[style]

    def remove_bundles(self) -> None:
        """Remove all bundles: for each new bundle, new workers load all that are there."""
        for backend in self._backends.values():
            for bundle in backend.broker.bundles.iterdir():
                shutil.rmtree(bundle)
            with backend.broker.admin() as client:
                client.call("reload")

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            backend = running_backend(self._tmp_path_factory.mktemp("table"))
            self._backends[name] = self._running.enter_context(backend)
        return self._backends[name]


@pytest.fixture(scope="package")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tables]:
    """Run gateways, and a broker and a Redis behind them."""
    go_program("gateway")
    with ExitStack() as running:
        yield Tables(running, tmp_path_factory)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest, tables: Tables) -> Table:
    """Return the table with the gateway of the test, or that in Go."""
    return tables.of(getattr(request, "param", GO))
