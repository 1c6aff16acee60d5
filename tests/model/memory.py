"""Shared memory as processors show it: a process's stores wait in a buffer before the others see them.

x86-TSO: they become visible in order. ARM: in any order, except those to the same address. A system call on a doorbell
takes the kernel's lock, so everything stored before it is visible after it; so is everything that a process has stored
once it is known to be dead.

When a store becomes visible can only be noticed by a read of its address. So nothing is decided before somebody reads
it: `views` returns every memory that the reader may then see. This comes to the same as letting each store become
visible at every possible moment, with far fewer states.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import product
from typing import Final, NamedTuple, TypeAlias


class Record(NamedTuple):
    """What one half of a record's bytes contains."""

    position: int
    seq: int
    body: int


NO_RECORD: Final = Record(-1, -1, -1)
Value: TypeAlias = int | Record
Store: TypeAlias = tuple[int, Value]


class Ordering(Enum):
    """How stores become visible."""

    TSO = "x86"
    ANY = "ARM"


class Memory(NamedTuple):
    """Cells by address, and by process what it has stored and others may not see yet, oldest first."""

    cells: tuple[Value, ...]
    buffers: tuple[tuple[Store, ...], ...]

    def store(self, process: int, *stores: Store) -> "Memory":
        """Let a process store something."""
        return self._with_buffer(process, self.buffers[process] + stores, self.cells)

    def fence(self, process: int) -> "Memory":
        """Make visible everything that a process has stored."""
        buffer = self.buffers[process]
        return self._with_buffer(process, (), _applied(self.cells, buffer)) if buffer else self

    def number(self, address: int) -> int:
        """Return the value of a counter."""
        value = self.cells[address]
        assert isinstance(value, int)
        return value

    def views(self, writer: int, addresses: Sequence[int], ordering: Ordering) -> Iterator["Memory"]:
        """Yield every memory that another process may see at these addresses, which only `writer` writes."""
        buffer = self.buffers[writer]
        if not any(address in addresses for address, _ in buffer):
            yield self
            return
        choices = _prefixes(buffer, addresses) if ordering is Ordering.TSO else _any_order(buffer, addresses)
        for visible in choices:
            rest = tuple(store for index, store in enumerate(buffer) if index not in visible)
            shown = [store for index, store in enumerate(buffer) if index in visible]
            yield self._with_buffer(writer, rest, _applied(self.cells, shown))

    def forget(self, writer: int, addresses: Sequence[int]) -> "Memory":
        """Empty cells that are not needed any more, so that states that differ only in them are the same.

        A process that reads them before they are written again finds no record, instead of a stale one.
        """
        if any(address in addresses for address, _ in self.buffers[writer]):
            return self
        return Memory(_applied(self.cells, [(address, NO_RECORD) for address in addresses]), self.buffers)

    def reset(self, first: int, cells: tuple[Value, ...]) -> "Memory":
        """Replace the memory from `first` on; stores to the old one that are not visible yet are lost."""
        end = first + len(cells)
        buffers = tuple(tuple(store for store in buffer if not first <= store[0] < end) for buffer in self.buffers)
        return Memory(self.cells[:first] + cells + self.cells[end:], buffers)

    def _with_buffer(self, process: int, buffer: tuple[Store, ...], cells: tuple[Value, ...]) -> "Memory":
        return Memory(cells, self.buffers[:process] + (buffer,) + self.buffers[process + 1 :])


def _applied(cells: tuple[Value, ...], stores: Sequence[Store]) -> tuple[Value, ...]:
    changed = list(cells)
    for address, value in stores:
        changed[address] = value
    return tuple(changed)


def _prefixes(buffer: tuple[Store, ...], addresses: Sequence[int]) -> Iterator[frozenset[int]]:
    yield frozenset()
    for index, (address, _) in enumerate(buffer):
        if address in addresses:
            yield frozenset(range(index + 1))


def _any_order(buffer: tuple[Store, ...], addresses: Sequence[int]) -> Iterator[frozenset[int]]:
    by_address = [[index for index, (at, _) in enumerate(buffer) if at == address] for address in addresses]
    for counts in product(*(range(len(indices) + 1) for indices in by_address)):
        yield frozenset(index for indices, count in zip(by_address, counts, strict=True) for index in indices[:count])
