"""The checker finds every violation, by a shortest trace; the memory shows what processors show, and nothing else."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest

from tests.model.checker import Step, TooManyStatesError, Violation, check
from tests.model.memory import Memory, Ordering, Value

FLAG, DATA = 0, 1
WRITER = 0


class Jugs(NamedTuple):
    """The water in two jugs of three and five litres."""

    small: int
    large: int


class Pouring:
    """Measure some litres with two jugs: a puzzle whose shortest solution is known."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted

    def start(self) -> Jugs:
        return Jugs(0, 0)

    def steps(self, state: Jugs) -> Iterator[Step[Jugs]]:
        small, large = state
        into_large, into_small = min(small, 5 - large), min(large, 3 - small)
        for after in (
            Jugs(3, large),
            Jugs(small, 5),
            Jugs(0, large),
            Jugs(small, 0),
            Jugs(small - into_large, large + into_large),
            Jugs(small + into_small, large - into_small),
        ):
            found = "measured" if after.large == self._wanted else None
            yield Step(f"{state} -> {after}", after, violation=found)

    def check_end(self, state: Jugs) -> None:
        raise AssertionError("there is always something to pour")


class Counting:
    """A counter to three that may stop at any number but one."""

    def __init__(self, *, optional_from: int) -> None:
        self._optional_from = optional_from

    def start(self) -> int:
        return 0

    def steps(self, state: int) -> Iterator[Step[int]]:
        if state < 3:
            yield Step(f"{state + 1}", state + 1, optional=state >= self._optional_from)

    def check_end(self, state: int) -> None:
        if state == 1:
            raise Violation("stopped at one")


def test_the_way_that_is_found_is_a_shortest_one() -> None:
    found = check(Pouring(4), 100).found
    assert found is not None
    assert len(found.trace) == 6
    steps = [step.split(" -> ") for step in found.trace]
    assert steps[0][0] == str(Jugs(0, 0))
    assert all(before[1] == after[0] for before, after in pairwise(steps))
    assert str(found).splitlines()[-1] == "  => measured"


def test_all_states_are_visited_if_there_is_no_violation() -> None:
    assert check(Pouring(6), 100) == (16, 0, None)


def test_a_search_that_is_cut_short_is_no_proof() -> None:
    with pytest.raises(TooManyStatesError):
        check(Pouring(6), 15)


def test_the_model_may_only_stop_where_nothing_is_missing() -> None:
    assert check(Counting(optional_from=2), 100) == (4, 2, None)
    found = check(Counting(optional_from=1), 100).found
    assert found is not None
    assert found == ("stopped at one", ("1",))


def seen(memory: Memory, ordering: Ordering) -> set[tuple[Value, Value]]:
    return {
        (second.cells[FLAG], second.cells[DATA])
        for first in memory.views(WRITER, (FLAG,), ordering)
        for second in first.views(WRITER, (DATA,), ordering)
    }


def test_stores_are_ordered_on_x86_and_not_on_arm() -> None:
    memory = Memory((0, 0), ((),)).store(WRITER, (DATA, 1), (FLAG, 1))
    assert seen(memory, Ordering.TSO) == {(0, 0), (0, 1), (1, 1)}
    assert seen(memory, Ordering.ANY) == {(0, 0), (0, 1), (1, 1), (1, 0)}


@pytest.mark.parametrize("ordering", list(Ordering))
def test_a_system_call_makes_earlier_stores_visible(ordering: Ordering) -> None:
    memory = Memory((0, 0), ((),)).store(WRITER, (DATA, 1)).fence(WRITER).store(WRITER, (FLAG, 1))
    assert seen(memory, ordering) == {(0, 1), (1, 1)}


@pytest.mark.parametrize("ordering", list(Ordering))
def test_two_stores_to_one_address_never_change_places(ordering: Ordering) -> None:
    memory = Memory((0, 0), ((),)).store(WRITER, (DATA, 1), (DATA, 2))
    shown = [view for view in memory.views(WRITER, (DATA,), ordering) if view.cells[DATA] == 2]
    assert all(view.cells[DATA] == 2 for late in shown for view in late.views(WRITER, (DATA,), ordering))
    assert {view.cells[DATA] for view in memory.views(WRITER, (DATA,), ordering)} == {0, 1, 2}


def test_replaced_memory_drops_stores_under_way() -> None:
    memory = Memory((0, 0), ((),)).store(WRITER, (DATA, 1), (FLAG, 1)).reset(DATA, (0,))
    assert memory.buffers == (((FLAG, 1),),)
    assert memory.fence(WRITER).cells == (1, 0)
