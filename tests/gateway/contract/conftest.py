"""What keeps the broker of the table small."""

import shutil
from collections.abc import Iterator

import pytest

from tests.support.gateway.table import Backend


@pytest.fixture(scope="module", autouse=True)
def bundles_are_removed(backend: Backend) -> Iterator[None]:
    """Remove the bundles of a module's tests: for each new bundle, new workers load all that are there."""
    yield
    for bundle in backend.broker.bundles.iterdir():
        shutil.rmtree(bundle)
    with backend.broker.admin() as client:
        client.call("reload")
