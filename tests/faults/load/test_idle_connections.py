"""Thousands of connections that do nothing: what each costs, and that a working one does not notice.

How fast the working one is beside them is measured by `python -m benchmarks.idle_connections`.
"""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from benchmarks.driving import idle_connections
from tests.support.broker import running_broker, wait_until
from tests.support.hooks import SOURCE
from tests.support.peers.neighbour import Footprint, Neighbour
from tykpy.broker.http2.limits import KIB, MIB

PER_CONNECTION: Final = 24 * KIB
"""Most bytes of the broker's memory."""
OWN: Final = 200
"""Descriptors of this process beside the connections."""


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Raise the limit to this many, or skip the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"{count} files cannot be open here (ulimit -Hn is {hard})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_idle_connections_cost_little(tmp_path: Path, count: int) -> None:
    """Connect them twice: the second time reuses memory that the allocator has not returned to the system."""
    flags = ("--max-connections", str(count + 10))
    with descriptors(count + OWN), running_broker(tmp_path, *flags, workers=2, files={"hooks.py": SOURCE}) as broker:
        before = Footprint(broker)
        taken = []
        with Neighbour(broker) as neighbour:
            for _ in range(2):
                with idle_connections(broker.address, count):
                    neighbour.wait_answered(200)
                    taken.append(before.grown())
                wait_until(lambda: before.descriptors_grown() <= 1, lambda: f"{before.descriptors_grown()} descriptors")
        print(f"\n{count} idle connections: {taken[0] / count / KIB:.1f} KiB each")
        assert taken[0] / count <= PER_CONNECTION
        assert taken[1] <= taken[0] * 1.2 + MIB
        before.check_back(taken[1] + 2 * MIB)
        broker.check_accounts()
