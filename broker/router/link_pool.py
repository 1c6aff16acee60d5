"""The ready workers by load, to find the one for the next dispatch without looking at all of them."""

from collections.abc import Iterator

from tykpy.broker.host.cpus import usable_cpus
from tykpy.broker.router.hook_info import BLOCKING
from tykpy.broker.router.link import Link


class LinkPool:
    """Chooses the worker with the least in flight; ties go to the most recently used one, whose caches are warm.

    Short hooks go to no more workers than there are CPUs, as long as those have room: waking another worker would gain
    nothing, and cost the broker as much as the dispatch itself.
    """

    def __init__(self, cpus: int | None = None) -> None:
        """`cpus`: how many workers can run at the same time; None: as many as this process may use."""
        self._cpus = cpus or usable_cpus().number
        self._levels: list[dict[Link, None]] = [{}]
        """Links by number of dispatches in flight."""
        self._lowest = 0
        """The lowest level that may have links."""
        self._level_of: dict[Link, int] = {}
        self.is_shared = False
        """Whether any link was ever given a dispatch that takes only a part of its worker."""

    def __len__(self) -> int:
        return len(self._level_of)

    def __iter__(self) -> Iterator[Link]:
        return iter(tuple(self._level_of))

    def add(self, link: Link) -> None:
        """Offer a worker that became ready."""
        self._place(link, len(link.in_flight))

    def remove(self, link: Link) -> None:
        """Stop choosing a worker, which may be unknown."""
        level = self._level_of.pop(link, None)
        if level is not None:
            del self._levels[level][link]

    def moved(self, link: Link) -> None:
        """Note that a worker's load has changed."""
        old = self._level_of.get(link)
        if old is None:
            return
        levels, new = self._levels, len(link.in_flight)
        del levels[old][link]
        if self._lowest <= new < len(levels):
            levels[new][link] = None
            self._level_of[link] = new
        else:
            self._place(link, new)

    def choose(self, lane: int, *, is_short: bool = False) -> Link | None:
        """Return the worker for the next dispatch of this lane, or None if all are busy."""
        levels = self._levels
        lowest = self._lowest
        while lowest < len(levels) and not levels[lowest]:
            lowest += 1
        self._lowest = lowest
        if is_short and not lowest and len(self._level_of) - len(levels[0]) >= self._cpus:
            found = self._find(lane, 1) or self._find(lane, 0)
        else:
            found = self._find(lane, lowest)
        if found is not None and lane == BLOCKING and self.is_shared and not found.has_room:
            # Another worker may have room although it has more in flight, if its hooks only wait.
            return self._find_room() or found
        return found

    def _find(self, lane: int, lowest: int) -> Link | None:
        levels = self._levels
        for at in range(lowest, len(levels)):
            for link in reversed(levels[at]):
                if link.accepts(lane):
                    return link
        return None

    def _find_room(self) -> Link | None:
        rooms = [link for link in self._level_of if link.has_room]
        return min(rooms, key=lambda link: self._level_of[link], default=None)

    def _place(self, link: Link, level: int) -> None:
        while len(self._levels) <= level:
            self._levels.append({})
        self._levels[level][link] = None
        self._level_of[link] = level
        if level < self._lowest:
            self._lowest = level
