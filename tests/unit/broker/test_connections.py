"""The registry of connections that both front ends use."""

import asyncio

import pytest

from tykpy.broker.connections import SWEEP_INTERVAL, SWEEP_SLICE, Connections, RequestProgress, Unchanged


class Recorded:
    """A connection that counts."""

    def __init__(self) -> None:
        self.swept = 0
        self.aborted = False

    def sweep(self, now: float) -> None:
        self.swept += 1

    def abort(self) -> None:
        self.aborted = True


def test_sweeps_last_as_long_as_connections() -> None:
    async def scenario() -> None:
        connections: Connections[Recorded] = Connections(asyncio.get_running_loop(), 2)
        first, second = Recorded(), Recorded()
        assert connections._sweeper._timer is None
        assert connections.add(first)
        assert connections.add(second)
        connections.discard(first)
        assert connections._sweeper._timer is not None
        connections.discard(second)
        assert connections._sweeper._timer is None
        assert not connections

    asyncio.run(scenario())


def test_many_connections_are_swept_in_slices() -> None:
    async def scenario() -> None:
        made = [Recorded() for _ in range(2 * SWEEP_SLICE)]
        connections: Connections[Recorded] = Connections(asyncio.get_running_loop(), len(made))
        for connection in made:
            connections.add(connection)
        connections._sweep_slowly()
        assert sum(connection.swept for connection in made) == SWEEP_SLICE
        await asyncio.sleep(0)
        assert [connection.swept for connection in made] == [1] * len(made)
        for connection in made:
            connections.discard(connection)

    asyncio.run(scenario())


def test_refused_connections_take_no_room() -> None:
    async def scenario() -> None:
        connections: Connections[Recorded] = Connections(asyncio.get_running_loop(), 1)
        first, second, third = Recorded(), Recorded(), Recorded()
        assert connections.add(first)
        assert not connections.add(second)
        connections.discard(first)
        assert connections.add(third)
        assert (len(connections), len(connections.refused)) == (1, 1)
        connections.abort()
        assert [connection.aborted for connection in (first, second, third)] == [False, True, True]
        connections.discard(third)

    asyncio.run(scenario())


def test_closed_does_not_wait_for_late_connections() -> None:
    async def scenario() -> None:
        connections: Connections[Recorded] = Connections(asyncio.get_running_loop(), 2)
        early = Recorded()
        connections.add(early)
        connections.draining = True
        assert connections.add(Recorded())
        connections.discard(early)
        await connections.closed()
        assert len(connections) == 1

    asyncio.run(scenario())


def test_unchanged_measures_since_the_last_change() -> None:
    value = Unchanged("a", 10.0)
    assert value.seconds("a", 12.0) == 2.0
    assert value.seconds("b", 15.0) == 0.0
    assert value.seconds("b", 16.0) == 1.0


@pytest.mark.parametrize(("step", "slow"), [(0, True), (9, True), (10, False), (1000, False)])
def test_progress_wants_enough_bytes_within_the_timeout(step: int, slow: bool) -> None:
    progress = RequestProgress()
    sweeps = 4
    found = [progress.is_too_slow(number * step, sweeps * SWEEP_INTERVAL, 10 * (sweeps + 1)) for number in range(1, 30)]
    assert any(found) is slow
    if step == 0:
        assert found.index(True) == sweeps
