"""Fixtures for tests of the router."""

from collections.abc import Iterator

import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.unit.broker.router.bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.loop.close()


@pytest.fixture
def worker() -> Iterator[LocalWorker]:
    with local_worker() as one:
        yield one
