"""Fixtures for tests of the router."""

from collections.abc import Iterator

import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.unit.broker.router.bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A router whose clock stands still except in `turn_until`: on a busy machine nothing is taken back, or expires."""
    bench = Bench()
    bench.stop_time()
    yield bench
    bench.loop.close()


@pytest.fixture
def worker() -> Iterator[LocalWorker]:
    with local_worker() as one:
        yield one
