"""Bulk memory against a model: bodies of any size are written, held by records, dropped and consumed."""

import os
from collections import deque
from contextlib import ExitStack

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tykpy.ipc.bodies.bulk import BulkReader, BulkWriter
from tykpy.ipc.ring.segment import create_bulk

CAPACITY = 64 * 1024
SIZES = st.one_of(st.integers(1, CAPACITY + 1), st.integers(1, 16).map(lambda part: part * CAPACITY // 16))


class BulkMachine(RuleBasedStateMachine):
    """Writes a worker's answers, which the broker reads in order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        memory = create_bulk(CAPACITY)
        self.writer = BulkWriter(memory.writable)
        self.reader = BulkReader(memory.readable)
        self.stack.callback(self.reader.close)
        self.stack.callback(self.writer.close)
        self.position = 0
        self.consumed = 0
        self.held: deque[tuple[int, int, bytes]] = deque()
        """Position of the record, offset and content of each body."""

    @rule(size=SIZES, announced=st.booleans())
    def write(self, size: int, announced: bool) -> None:
        body = os.urandom(1) * size
        offset = self.writer.write(body, self.consumed)
        assert (offset is not None) == self.fits(size)
        if offset is None:
            return
        if not announced:
            self.writer.drop(offset, size)
            return
        self.position += 1
        self.writer.hold(offset, size, self.position)
        self.held.append((self.position, offset, body))

    def fits(self, size: int) -> bool:
        """Return whether a gap between held bodies is large enough; bodies begin at multiples of 64."""
        at = 0
        for offset, body in sorted((offset, body) for _, offset, body in self.held):
            if offset - at >= size:
                return True
            at = -(-(offset + len(body)) // 64) * 64
        return at + size <= CAPACITY

    @precondition(lambda self: self.held)
    @rule(count=st.integers(1, 5))
    def consume(self, count: int) -> None:
        for _ in range(min(count, len(self.held))):
            self.consumed = self.held.popleft()[0] + 1

    @rule()
    def trim(self) -> None:
        self.writer.trim(self.consumed)
        assert self.held or self.writer.reserved == 0

    @rule()
    def consume_all(self) -> None:
        """Consume all bodies: the whole memory is then free for one body."""
        self.held.clear()
        self.consumed = self.position + 1
        assert self.writer.write(bytes(CAPACITY), self.consumed) == 0
        self.writer.drop(0, CAPACITY)

    @invariant()
    def bodies_are_whole(self) -> None:
        for _, offset, body in self.held:
            assert self.reader.read(offset, len(body)) == body

    def teardown(self) -> None:
        self.stack.close()


BulkMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBulk = BulkMachine.TestCase
