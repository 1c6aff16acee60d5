"""Differences between answers, grouped by their shape: the hook, the field, and the kind of change."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from tykpy.traffic.bundle_run import CallResult
from tykpy.workers.objects.changes import Change, changes_of

FAILURE: Final = "failure"
"""The path of a difference in how calls end; an answer's fields have theirs, e.g. `request.set_headers['X-Id']`."""
_PLACE: Final = re.compile(r" of bundle \S+|\s*\([^()]*:\d+\)$")
"""Where a message names the bundle, and the file and line of an error: they change with every edit."""


class DifferenceShape(NamedTuple):
    """What differences have in common."""

    hook: str
    sign: str
    """`+`: new, `-`: gone, `~`: changed."""
    path: str


@dataclass(slots=True)
class DifferenceGroup:
    """The differences of one shape."""

    calls: int
    number: int
    """The number of the first call that differs so, as `tykpy record show` counts."""
    example: Change
    """The difference of that call."""


class Differences:
    """Collects differences."""

    def __init__(self, ignore: Iterable[str] = ()) -> None:
        """`ignore`: paths of fields, or their beginnings, in which differences do not count."""
        self._ignore = tuple(ignore)
        self.groups: dict[DifferenceShape, DifferenceGroup] = {}
        self.differing = 0
        """Calls with a difference that counts."""
        self.ignored = 0
        """Calls with differences of which none counts."""

    def add(self, number: int, hook: str, before: CallResult, after: CallResult) -> None:
        """Compare two answers to one call."""
        changes = list(_differences(before, after))
        counting = [change for change in changes if not self._is_ignored(change.path)]
        self.differing += bool(counting)
        self.ignored += bool(changes) and not counting
        for change in counting:
            shape = DifferenceShape(hook, change.sign, change.path)
            group = self.groups.setdefault(shape, DifferenceGroup(0, number, change))
            group.calls += 1

    def _is_ignored(self, path: str) -> bool:
        return any(path == known or path.startswith((f"{known}.", f"{known}[")) for known in self._ignore)


def _differences(before: CallResult, after: CallResult) -> Iterator[Change]:
    was, is_now = _ending(before), _ending(after)
    if was != is_now:
        yield Change(FAILURE, was, is_now)
    elif before.answer is not None and after.answer is not None:
        yield from changes_of(before.answer, after.answer)


def _ending(result: CallResult) -> str | None:
    """Return how a call failed, None if it did not."""
    if result.code == "OK":
        return None
    return f"{result.code}: {_PLACE.sub('', result.message)}"
