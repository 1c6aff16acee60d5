"""One channel against a model, under any sequence of actions of its two ends, and under damage."""

from collections import deque
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.ipc.channel.ends import SMALL, channel_pair, claim_each, rings, whole
from tykpy.ipc.channel.messages import Answer, ChannelOptions, Request
from tykpy.ipc.errors import MessageTooLargeError, RingCorruptError
from tykpy.ipc.ring.layout import HEAD, HEADER_SIZE, TAIL, RecordType

SIZES = st.one_of(
    st.integers(0, 100), st.sampled_from([31, 32, 33, 447, 448, 479, 480, 481, 600]), st.integers(0, 70000)
)


class ChannelMachine(RuleBasedStateMachine):
    """Sends, rings, revokes and receives as the broker; claims and answers as the worker, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.broker, self.worker = self.stack.enter_context(channel_pair(SMALL))
        self.seq = 0
        self.unrung: deque[Request] = deque()
        self.rung: deque[Request] = deque()
        self.executing: dict[int, Request] = {}
        self.published: deque[Answer] = deque()
        self.announced = 0

    @property
    def in_flight(self) -> int:
        return len(self.unrung) + len(self.rung) + len(self.executing) + len(self.published)

    @precondition(lambda self: self.in_flight < SMALL.credits)
    @rule(size=SIZES)
    def send(self, size: int) -> None:
        self.seq += 1
        payload = bytes([self.seq % 256]) * size
        try:
            self.broker.send(self.seq, whole(payload), 0)
        except MessageTooLargeError:
            assert size > SMALL.max_message
        else:
            self.unrung.append(Request(self.seq, whole(payload), 0))

    @rule()
    def ring(self) -> None:
        self.broker.ring()
        self.rung.extend(self.unrung)
        self.unrung.clear()

    @precondition(lambda self: self.rung)
    @rule(most=st.integers(1, 4))
    def claim(self, most: int) -> None:
        free = [slot for slot in range(64) if slot not in self.executing][: min(most, len(self.rung))]
        requests = claim_each(self.worker, free)
        assert requests == [self.rung.popleft() for _ in free]
        self.executing.update(zip(free, requests, strict=True))

    @rule()
    def revoke(self) -> None:
        assert self.broker.revoke() == [request.seq for request in (*self.rung, *self.unrung)]
        self.rung.clear()
        self.unrung.clear()

    @precondition(lambda self: self.executing)
    @rule(data=st.data(), size=SIZES, is_error=st.booleans())
    def answer(self, data: st.DataObject, size: int, is_error: bool) -> None:
        slot, request = self._end(data)
        payload = bytes([request.seq % 251]) * min(size, SMALL.max_message)
        self.worker.answer(slot, request.seq, whole(payload), is_error, request.seq * 3)
        self.published.append(Answer(request.seq, is_error, whole(payload), request.seq * 3))
        self.announced += 1

    @precondition(lambda self: self.executing)
    @rule(data=st.data())
    def publish_without_a_doorbell(self, data: st.DataObject) -> None:
        _, request = self._end(data)
        self.worker._push(RecordType.RESP, request.seq, 0, b"quiet")
        self.published.append(Answer(request.seq, False, whole(b"quiet"), 0))

    def _end(self, data: st.DataObject) -> tuple[int, Request]:
        slot = data.draw(st.sampled_from(sorted(self.executing)))
        request = self.executing.pop(slot)
        self.worker._words[64 + slot] = 0
        return slot, request

    @rule()
    def receive(self) -> None:
        assert self.broker.receive() == [self.published.popleft() for _ in range(self.announced)]
        self.announced = 0

    @invariant()
    def the_broker_knows_what_executes(self) -> None:
        assert self.broker.executing() == {request.seq for request in self.executing.values()}
        assert self.broker.in_flight() == self.in_flight

    def teardown(self) -> None:
        assert self.broker.drain() == list(self.published)
        self.stack.close()


ChannelMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestChannel = ChannelMachine.TestCase


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 480), min_size=1, max_size=6),
    earlier=st.integers(0, 40),
    data=st.data(),
)
def test_a_flipped_bit_never_delivers_wrongly(sizes: list[int], earlier: int, data: st.DataObject) -> None:
    with rings() as both:
        for seq in range(earlier):  # fill the ring with stale records of earlier laps
            both.producer.push(RecordType.REQ, seq, 0, bytes(seq * 7))
            both.consumer.pop()
            both.consumer.commit()
        start = both.tail
        sent = [(int(RecordType.REQ), 1000 + n, n, bytes([n]) * size) for n, size in enumerate(sizes)]
        for record in sent:
            both.producer.push(*record)
        bit = data.draw(st.integers(0, (both.tail - start) * 8 - 1))
        offset = HEADER_SIZE + ((start + bit // 8) & 4095)
        both.a_writable.memory[offset] ^= 1 << bit % 8
        assert_delivers_a_prefix(both.consumer.pop, sent)


def assert_delivers_a_prefix(pop: object, sent: list[tuple[int, int, int, bytes]]) -> None:
    """Check that records arrive as sent, until the first damaged one raises RingCorruptError."""
    assert callable(pop)
    for record in sent:
        try:
            assert pop() == record
        except RingCorruptError:
            return


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(min_size=64, max_size=4096),
    tail=st.one_of(st.integers(0, 130).map(lambda n: n * 32), st.integers(0, 2**64 - 1)),
)
def test_arbitrary_bytes_are_corruption_and_nothing_else(content: bytes, tail: int) -> None:
    with rings() as both:
        both.damage(0, content)
        both.a_writable.words[TAIL] = tail
        with pytest.raises(RingCorruptError):
            both.consumer.pop()


@settings(max_examples=60, deadline=None)
@given(
    words=st.dictionaries(st.integers(TAIL, 511), st.integers(0, 2**64 - 1), max_size=8),
    content=st.binary(max_size=512),
    tokens=st.integers(0, 2**32),
    head=st.integers(0, 2**64 - 1),
)
def test_a_worker_gone_wild_costs_the_broker_one_exception(
    words: dict[int, int], content: bytes, tokens: int, head: int
) -> None:
    options = ChannelOptions(capacity=4096, max_record=512, max_message=4096)
    with channel_pair(options) as (broker, worker):
        broker.send(1, whole(b"request"), 0)
        broker.ring()
        memory = worker._parts[1].memory
        memory[HEADER_SIZE : HEADER_SIZE + len(content)] = content
        for index, value in {**words, HEAD: head}.items():
            worker._words[index] = value
        worker._ring(tokens)
        try:
            assert broker.receive() == []
        except RingCorruptError:
            assert broker.corrupt is not None
        assert broker.drain() == []
        assert broker.executing() <= {1}
        broker.execution_started_ns(1)
        broker.storage_health()
        broker.hook_threads()
        with suppress(RingCorruptError):
            # Either the request is taken back, or the damage raises and nothing is taken back.
            assert broker.revoke() == [1]
        assert broker.in_flight() == (0 if broker.corrupt is None else 1)
        with suppress(RingCorruptError):
            for seq in range(2, 5):
                broker.send(seq, whole(bytes(480)), 0)
