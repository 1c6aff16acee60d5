"""What keeps the brokers of the tables small."""

from collections.abc import Iterator

import pytest

from tests.gateway.conftest import Tables


@pytest.fixture(scope="module", autouse=True)
def bundles_are_removed(tables: Tables) -> Iterator[None]:
    """Remove the bundles of a module's tests."""
    yield
    tables.remove_bundles()
