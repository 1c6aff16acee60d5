"""The store of big bodies against a model: a list of blocks and the bodies in them."""

from contextlib import ExitStack

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tykpy.ipc.bodies.store import BodyStore, StoredBody, body_bytes

KIB = 1024
BLOCK = 32 * KIB
BLOCKS = 24
SIZES = st.one_of(
    st.integers(1, BLOCKS * BLOCK + 1),
    st.integers(1, BLOCKS).map(lambda blocks: blocks * BLOCK),
    st.sampled_from([0, 1, BLOCK + 1, 2 * BLOCK - 1, BLOCKS * BLOCK + 1]),
)


class StoreMachine(RuleBasedStateMachine):
    """Puts and drops bodies in any order, and returns idle memory in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.store = BodyStore(BLOCKS * BLOCK)
        self.stack.callback(self.store.close)
        self.bodies: list[tuple[StoredBody, bytes]] = []
        self.stamp = 0

    def free_runs(self) -> list[int]:
        """Return the lengths of all runs of free blocks."""
        used = "".join("x" if taken else " " for taken in self.taken())
        return [len(run) for run in used.split("x") if run]

    def taken(self) -> list[bool]:
        taken = [False] * BLOCKS
        for body, _ in self.bodies:
            first = body.offset // BLOCK
            assert body.offset % BLOCK == 0
            for block in range(first, first + max(1, -(-body.size // BLOCK))):
                assert not taken[block], "two bodies in one place"
                taken[block] = True
        return taken

    @rule(size=SIZES)
    def put(self, size: int) -> None:
        self.stamp += 1
        content = bytes([self.stamp % 256]) * size
        body = self.store.put(content)
        fits = max([0, *self.free_runs()]) >= max(1, -(-size // BLOCK))
        assert (body is not None) == fits
        if body is not None:
            self.bodies.append((body, content))

    @precondition(lambda self: self.bodies)
    @rule(which=st.integers(0, BLOCKS))
    def drop(self, which: int) -> None:
        del self.bodies[which % len(self.bodies)]

    @rule()
    def trim(self) -> None:
        self.store.trim()

    @rule()
    def drop_all(self) -> None:
        """Drop all bodies: the free blocks then form one run."""
        self.bodies.clear()
        assert self.store.used == 0
        whole = self.store.begin(BLOCKS * BLOCK)
        assert whole is not None

    @invariant()
    def bodies_are_whole(self) -> None:
        assert self.store.used == sum(self.taken()) * BLOCK
        for body, content in self.bodies:
            assert body_bytes(body) == content

    def teardown(self) -> None:
        self.bodies.clear()
        self.store.trim()
        self.store.trim()
        assert (self.store.used, self.store.reserved) == (0, 0)
        self.stack.close()


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBodyStore = StoreMachine.TestCase
