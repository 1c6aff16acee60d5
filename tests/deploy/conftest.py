"""Real Helm, and the Compose Specification's own loader, built with Go."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.gateway.go_gateway import go_tool

COMPOSE: Final = ("github.com/compose-spec/compose-go/v2/cmd", "v2.16.2")
HELM: Final = ("helm.sh/helm/v3/cmd/helm", "v3.21.4")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before any test's time limit starts: the first build of Helm takes two minutes."""
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    here = any(Path(__file__).parent in item.path.parents for item in session.items)
    for fixture, tool in (("compose", COMPOSE), ("helm", HELM)):
        if here and fixture in wanted:
            try:
                go_tool(*tool)
            except (pytest.skip.Exception, pytest.fail.Exception, AssertionError):
                # Every test that needs it reports this itself.
                return


@pytest.fixture
def compose() -> str:
    """The path of a program that loads compose files as Docker does, and fails for what is wrong with them."""
    return go_tool(*COMPOSE)


@pytest.fixture
def helm() -> str:
    """The path of Helm."""
    return go_tool(*HELM)
