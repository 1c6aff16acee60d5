"""An explicit-state model checker. It searches breadth first, so the trace to a violation is a shortest one."""

import gc
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)
S_contra = TypeVar("S_contra", contravariant=True)


class Violation(Exception):  # noqa: N818 (it is what is looked for, not something that went wrong)
    """A promise that does not hold; raised by a model while it describes a step or an end."""


class Step(NamedTuple, Generic[S]):
    """Something that can happen in a state."""

    label: str
    state: S
    optional: bool = False
    """It may as well never happen (a kill): a state that only has such steps is an end."""
    violation: str | None = None


class Model(Protocol[S]):
    """A model that `check` explores."""

    def start(self) -> S:
        """Return the first state."""

    def steps(self, state: S) -> Iterable[Step[S]]:
        """Yield everything that can happen next."""

    def check_end(self, state: S) -> None:
        """Raise Violation if the model may stop in this state, but something is still missing."""


class Found(NamedTuple):
    """A violation and the shortest way to it."""

    what: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{number:3}. {label}" for number, label in enumerate(self.trace, 1)]
        return "\n".join([*lines, f"  => {self.what}"])


class Outcome(NamedTuple):
    """The result of a search."""

    states: int
    ends: int
    """States in which nothing more has to happen."""
    found: Found | None


class TooManyStatesError(Exception):
    """The model has more states than the caller allows."""


def check(model: Model[S], most: int) -> Outcome:
    """Visit all states, or stop at the first violation.

    Raises TooManyStatesError above `most` states: a search that is cut short proves nothing.
    """
    # States are tuples without cycles: Python's collector would look through all of them again and again, in vain.
    gc.disable()
    try:
        return _search(model, most)
    finally:
        gc.enable()


def _search(model: Model[S], most: int) -> Outcome:
    start = model.start()
    came_by: dict[S, tuple[S, str] | None] = {start: None}
    frontier = deque([start])
    ends = 0
    while frontier:
        state = frontier.popleft()
        must_go_on = False
        for label, after, optional, violation in model.steps(state):
            if violation is not None:
                return Outcome(len(came_by), ends, Found(violation, (*_way_to(came_by, state), label)))
            must_go_on |= not optional
            if after not in came_by:
                came_by[after] = (state, label)
                frontier.append(after)
        if len(came_by) > most:
            raise TooManyStatesError(f"more than {most} states")
        if not must_go_on:
            ends += 1
            try:
                model.check_end(state)
            except Violation as violated:
                return Outcome(len(came_by), ends, Found(str(violated), tuple(_way_to(came_by, state))))
    return Outcome(len(came_by), ends, None)


def _way_to(came_by: dict[S, tuple[S, str] | None], state: S) -> list[str]:
    labels: list[str] = []
    while (before := came_by[state]) is not None:
        state, label = before
        labels.append(label)
    return labels[::-1]
