"""Calls for `tykpy record` are handed over in batches."""

import asyncio
from collections.abc import Callable
from contextlib import closing

import pytest

from tykpy.broker.observe.recorder import MAX_BATCH, MAX_CALL, Batch, Recorder, RecordOptions
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.hook_stats import AllHookStats, HookStats
from tykpy.ipc.frame import Kind


class Ended(Dispatch):
    """A dispatch that has ended."""

    def answer(self, kind: int, body: bytes) -> None:
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        raise NotImplementedError


async def batches(collect: float, body: bytes) -> list[Batch | None]:
    """Return what is handed over at once of a call with this body."""
    found: list[Batch | None] = []
    recorder = Recorder(asyncio.get_running_loop(), [], [])
    recorder.start(RecordOptions(collect=collect))
    recorder.note(Ended(Kind.OBJECT, body), HookStats(AllHookStats(), ("mine", "greet")), 0, 1, 1, b"")
    recorder.read(found.append)
    for _ in range(3):
        await asyncio.sleep(0)
    at_once = list(found)
    recorder.stop()
    return at_once


def test_calls_that_nobody_fetched_are_counted_at_the_end() -> None:
    async def left() -> int:
        recorder = Recorder(asyncio.get_running_loop(), [], [])
        recorder.start(RecordOptions())
        for size in (1, 2, MAX_CALL):
            ended = Ended(Kind.OBJECT, bytes(size))
            recorder.note(ended, HookStats(AllHookStats(), ("mine", "greet")), 0, 1, 1, b"")
        return recorder.stop()

    assert asyncio.run(left()) == 3


def test_calls_are_collected_for_a_while() -> None:
    assert asyncio.run(batches(1.0, b"body")) == []
    (batch,) = asyncio.run(batches(0.0, b"body"))
    assert batch is not None
    assert [call.request for call in batch.calls] == [b"body"]


def test_a_full_batch_is_not_held_back() -> None:
    (batch,) = asyncio.run(batches(1.0, bytes(MAX_BATCH + 1)))
    assert batch is not None


def test_a_recording_chooses_while_it_runs() -> None:
    async def chosen() -> list[bool | None]:
        on_taken: list[Callable[[Dispatch, HookStats], None]] = []
        recorder = Recorder(asyncio.get_running_loop(), on_taken, [])
        recorder.start(RecordOptions(hooks=("mine/greet",)))
        found = []
        for hook in ("greet", "other"):
            dispatch = Ended(Kind.OBJECT, b"")
            for choose in on_taken:
                choose(dispatch, HookStats(AllHookStats(), ("mine", hook)))
            found.append(dispatch.recorded)
        recorder.stop()
        assert not on_taken
        return found

    assert asyncio.run(chosen()) == [True, False]


def chosen_of(recorder: Recorder, calls: int, size: int = 0) -> int:
    """Return how many of some calls are recorded."""
    stats, found = HookStats(AllHookStats(), ("mine", "greet")), 0
    for _ in range(calls):
        dispatch = Ended(Kind.OBJECT, bytes(size))
        recorder.choose(dispatch, stats)
        recorder.note(dispatch, stats, 0, 1, 1)
        found += bool(dispatch.recorded)
    return found


def test_calls_above_the_rate_are_dropped_and_counted() -> None:
    class Clock(asyncio.SelectorEventLoop):
        now = 5.0

        def time(self) -> float:
            return self.now

    with closing(Clock()) as loop:
        recorder = Recorder(loop, [], [])
        recorder.start(RecordOptions(rate=100))
        assert chosen_of(recorder, 150) == 100
        batches: list[Batch | None] = []
        recorder.read(batches.append)
        loop.now += 0.25
        loop.call_later(0, loop.stop)
        loop.run_forever()
        (batch,) = batches
        assert batch is not None
        assert (len(batch.calls), batch.dropped) == (100, 50)
        assert chosen_of(recorder, 50, size=3 * 8 * 1024) == 7
        assert recorder.stop() == 50


@pytest.mark.parametrize("rate", [-1.0, float("inf"), float("nan")])
def test_a_rate_is_a_number_of_calls(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        RecordOptions(rate=rate)


@pytest.mark.parametrize("seconds", [-1.0, 60.0, float("nan")])
def test_nobody_can_ask_for_a_long_wait(seconds: float) -> None:
    with pytest.raises(ValueError, match="collect"):
        RecordOptions(collect=seconds)
