"""The end of a turn: callbacks run once, in order, whatever one of them does."""

import asyncio
from collections.abc import Iterator

import pytest

from tykpy.broker.end_of_turn import EndOfTurn


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def one_pass(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_callbacks_run_in_order_at_the_end_of_the_turn(loop: asyncio.AbstractEventLoop) -> None:
    end_of_turn, done = EndOfTurn(loop), list[str]()
    with end_of_turn:
        end_of_turn.at_end(lambda: done.append("rung"))
        end_of_turn.at_end(lambda: done.append("written"))
        assert done == []
    assert done == ["rung", "written"]
    one_pass(loop)
    assert done == ["rung", "written"]


def test_outside_of_a_turn_the_event_loop_calls_back(loop: asyncio.AbstractEventLoop) -> None:
    end_of_turn, done = EndOfTurn(loop), list[str]()
    end_of_turn.at_end(lambda: done.append("rung"))
    end_of_turn.at_end(lambda: done.append("written"))
    assert done == []
    one_pass(loop)
    assert done == ["rung", "written"]


def test_a_turn_also_runs_callbacks_left_from_before(loop: asyncio.AbstractEventLoop) -> None:
    end_of_turn, done = EndOfTurn(loop), list[str]()
    end_of_turn.at_end(lambda: done.append("earlier"))
    with end_of_turn:
        end_of_turn.at_end(lambda: done.append("now"))
    assert done == ["earlier", "now"]
    one_pass(loop)
    assert done == ["earlier", "now"]


def test_callbacks_added_by_callbacks_run_too(loop: asyncio.AbstractEventLoop) -> None:
    end_of_turn, done = EndOfTurn(loop), list[str]()
    with end_of_turn:
        end_of_turn.at_end(lambda: end_of_turn.at_end(lambda: done.append("written")))
    one_pass(loop)
    assert done == ["written"]


def test_a_turn_that_fails_still_ends(loop: asyncio.AbstractEventLoop) -> None:
    end_of_turn, done = EndOfTurn(loop), list[str]()

    def fail() -> None:
        with end_of_turn:
            end_of_turn.at_end(lambda: done.append("rung"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert done == ["rung"]
    end_of_turn.at_end(lambda: done.append("later"))
    assert done == ["rung"]
    one_pass(loop)
    assert done == ["rung", "later"]


def test_a_failing_callback_does_not_stop_the_others(loop: asyncio.AbstractEventLoop) -> None:
    end_of_turn, done = EndOfTurn(loop), list[str]()

    def fail_at_the_end() -> None:
        with end_of_turn:
            end_of_turn.at_end(lambda: done.append(str(1 // 0)))
            end_of_turn.at_end(lambda: done.append("written"))

    fail_at_the_end()
    assert done == ["written"]
