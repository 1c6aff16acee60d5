"""When a worker is due."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from broker.config import BrokerConfig
from broker.pool.recycling import Recycler


def limits(requests: int, jitter: int) -> set[int]:
    """The limits that 200 new workers get; none where there is no limit."""
    supervisor: Any = SimpleNamespace(request_limit=None)
    loop = asyncio.new_event_loop()
    Recycler(loop, BrokerConfig(max_requests=requests, max_requests_jitter=jitter), supervisor)
    loop.close()
    return {supervisor.request_limit() for _ in range(200)} if supervisor.request_limit else set()


def test_workers_that_start_together_are_not_due_together() -> None:
    found = limits(100, 50)
    assert found <= set(range(100, 151))
    assert len(found) > 10


@pytest.mark.parametrize(("requests", "expected"), [(0, set()), (7, {7})])
def test_without_jitter_the_limit_is_what_it_is(requests: int, expected: set[int]) -> None:
    assert limits(requests, 0) == expected
