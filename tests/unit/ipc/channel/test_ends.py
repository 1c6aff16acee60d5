"""Both ends of a channel in one process: what broker and worker promise each other."""

import errno
import os
import select
import socket
from collections.abc import Callable
from threading import Lock, Thread
from time import monotonic_ns

import pytest

from tests.unit.ipc.channel.ends import SMALL, channel_pair, claim_each, start, whole, worker_argument_of_copies
from tykpy.ipc.bodies.bulk import BulkWriter
from tykpy.ipc.bodies.store import BORROW_FROM, BodyStore
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import Answer, ChannelOptions, Request
from tykpy.ipc.channel.stacks import MAX_STACKS
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.errors import (
    CreditError,
    MessageTooLargeError,
    OptionsError,
    RingCorruptError,
    SegmentError,
    SpillError,
)
from tykpy.ipc.frame import Status, unpack_frame
from tykpy.ipc.ring import segment
from tykpy.ipc.ring.layout import (
    ACTIVE_SEQ,
    ACTIVE_START,
    FLAG_MEASURE,
    FLAG_SHARES,
    HEAD,
    MAX_HANDLER_NS,
    MAX_WAITING,
    SPILL_PLACE,
    TAIL,
    WAITING_SHIFT,
    Identity,
    RecordType,
    Role,
    StorageState,
)

BIG = bytes(range(256)) * 100


@pytest.fixture
def no_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulk memory is full all the time."""
    monkeypatch.setattr(BulkWriter, "write", lambda self, body, consumed: None)


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def error_of(answer: Answer) -> tuple[int, str]:
    assert answer.is_error
    status, message = unpack_frame(answer.payload).body
    return status, message


def test_a_request_is_claimed_and_its_answer_received() -> None:
    with channel_pair() as (broker, worker):
        deadline = monotonic_ns() + 10**12
        broker.send(5, whole(b"question"), deadline)
        broker.ring()
        assert worker.claim(2) == Request(5, whole(b"question"), deadline)
        assert broker.executing() == {5}
        assert not readable(broker.answers_fd)
        worker.answer(2, 5, whole(b"answer"), False, 1234)
        assert readable(broker.answers_fd)
        assert broker.receive() == [Answer(5, False, whole(b"answer"), 1234)]
        assert broker.executing() == frozenset()
        assert broker.in_flight() == 0


def test_an_error_answer_says_that_it_is_one() -> None:
    with channel_pair() as (broker, worker):
        broker.send(5, whole(b"question"), 0)
        broker.ring()
        worker.claim()
        worker.answer(0, 5, whole(b"reason"), True, 0)
        assert broker.receive() == [Answer(5, True, whole(b"reason"), 0)]


def test_one_doorbell_for_all_requests_sent_since_the_last() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b"a"), 0)
        broker.send(2, whole(b"b"), 0)
        broker.ring()
        broker.ring()
        assert [request.seq for request in claim_each(worker, range(2))] == [1, 2]
        assert broker.revoke() == []


def test_a_worker_claims_one_request_for_each_slot() -> None:
    with channel_pair() as (broker, worker):
        for seq in (1, 2, 3):
            broker.send(seq, whole(b""), 0)
        broker.ring()
        assert [request.seq for request in claim_each(worker, [4, 6])] == [1, 2]
        assert broker.execution_started_ns(2) > 0
        assert broker.execution_started_ns(3) == 0
        worker.answer(4, 1, whole(b"x"), False, 1)
        worker.answer(6, 2, whole(b"y"), True, 2)
        assert broker.receive() == [Answer(1, False, whole(b"x"), 1), Answer(2, True, whole(b"y"), 2)]
        assert broker.revoke() == [3]


def test_answers_come_in_any_order() -> None:
    with channel_pair() as (broker, worker):
        for seq in (1, 2, 3):
            broker.send(seq, whole(b""), 0)
        broker.ring()
        claim_each(worker, range(3))
        worker.answer(2, 3, whole(b"third"), False, 0)
        worker.answer(0, 1, whole(b"first"), False, 0)
        assert [answer.seq for answer in broker.receive()] == [3, 1]
        assert broker.executing() == {2}


def test_a_request_that_moves_never_executes_nowhere() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b""), 0)
        broker.ring()
        worker.claim(0)
        started = broker.execution_started_ns(1)
        worker.move(1, 0, 40)
        assert worker._words[ACTIVE_SEQ] == 0
        assert worker._words[ACTIVE_SEQ + 40] == 1
        assert broker.execution_started_ns(1) == started == worker._words[ACTIVE_START + 40]


def test_an_expired_request_is_skipped_with_an_error() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b"late"), monotonic_ns() - 1)
        broker.send(2, whole(b"in time"), 0)
        broker.ring()
        request = worker.claim()
        assert request is not None
        assert request.seq == 2
        assert broker.executing() == {2}
        (answer,) = broker.receive()
        assert answer.seq == 1
        assert error_of(answer)[0] == Status.EXPIRED


def test_unclaimed_requests_are_taken_back_oldest_first() -> None:
    with channel_pair() as (broker, worker):
        for seq in range(1, 6):
            broker.send(seq, whole(b"x" * seq), 0)
            broker.ring()
        worker.claim()
        assert broker.revoke() == [2, 3, 4, 5]
        assert broker.in_flight() == 1
        assert broker.revoke() == []


def test_requests_that_were_not_rung_for_are_taken_back_too() -> None:
    with channel_pair() as (broker, _):
        broker.send(1, whole(b""), 0)
        broker.ring()
        broker.send(2, whole(b""), 0)
        assert broker.revoke() == [1, 2]
        broker.ring()
        assert broker.revoke() == []


def test_the_ring_goes_on_after_a_revocation() -> None:
    with channel_pair() as (broker, worker):
        seq = 0
        for _ in range(200):
            first = seq + 1
            for size in (10, 300, 450):
                seq += 1
                broker.send(seq, whole(bytes([seq % 256]) * size), 0)
            broker.ring()
            claimed = worker.claim()
            assert claimed is not None
            assert claimed == Request(first, whole(bytes([first % 256]) * 10), 0)
            assert broker.revoke() == [first + 1, first + 2]
            worker.answer(0, first, whole(b""), False, 0)
            assert [answer.seq for answer in broker.receive()] == [first]


def test_more_requests_than_credits_are_refused() -> None:
    with channel_pair() as (broker, _):
        for seq in range(1, SMALL.credits + 1):
            broker.send(seq, whole(bytes(480)), 0)
        with pytest.raises(CreditError) as caught:
            broker.send(99, whole(b""), 0)
        assert caught.value.limit == SMALL.credits == 6


def test_with_all_credits_used_a_ring_is_never_full() -> None:
    with channel_pair() as (broker, worker):
        seq = 0
        for lap in range(300):
            sent = []
            while broker.in_flight() < SMALL.credits:
                seq += 1
                sent.append(seq)
                broker.send(seq, whole(bytes(480 - lap % 33)), 0)
            broker.ring()
            requests = claim_each(worker, range(1 + lap % SMALL.credits))
            for slot, request in enumerate(requests):
                worker.answer(slot, request.seq, request.payload, False, 0)
            assert [answer.seq for answer in broker.receive()] == [request.seq for request in requests]


def test_big_messages_travel_both_ways_in_order_with_small_ones() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b"small"), 0)
        broker.send(2, whole(BIG), 0)
        broker.send(3, whole(b"small"), 0)
        broker.ring()
        requests = claim_each(worker, range(3))
        assert [request.payload for request in requests] == [whole(b"small"), whole(BIG), whole(b"small")]
        worker.answer(0, 1, whole(BIG), False, 1)
        worker.answer(1, 2, whole(b"tiny"), False, 1)
        worker.answer(2, 3, whole(BIG[::-1]), True, 1)
        assert broker.receive() == [
            Answer(1, False, whole(BIG), 1),
            Answer(2, False, whole(b"tiny"), 1),
            Answer(3, True, whole(BIG[::-1]), 1),
        ]


@pytest.mark.parametrize(("size", "spilled"), [(480, 0), (481, 1)])
def test_what_fits_a_record_takes_no_memory_of_its_own(size: int, spilled: int) -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(bytes(size)), 0)
        assert len(broker._spilled) == spilled
        broker.ring()
        request = worker.claim()
        assert request is not None
        assert request.payload == whole(bytes(size))


def test_a_stored_body_is_read_by_every_worker_that_is_given_it() -> None:
    store = BodyStore(SMALL.store_capacity)
    with channel_pair(bodies=store) as (first, one), channel_pair(bodies=store) as (second, other):
        body = store.put(BIG)
        assert body is not None
        first.send(1, (b"head", body), 0)
        first.ring()
        assert first.revoke() == [1]
        second.send(2, (b"head", body), 7**20)
        first.send(3, (b"again", body), 0)
        for broker in (first, second):
            broker.ring()
        assert one.claim() == Request(3, (b"again", BIG), 0)
        assert other.claim() == Request(2, (b"head", BIG), 7**20)
        del body
    store.close()


def test_a_worker_borrows_large_bodies() -> None:
    with channel_pair(ChannelOptions(max_message=2 * BORROW_FROM)) as (broker, worker):
        worker.borrow_bodies()
        large = os.urandom(BORROW_FROM)
        stored = [broker.bodies.put(body) for body in (large, large[1:])]
        for seq, body in enumerate(stored):
            assert body is not None
            broker.send(seq, (b"head", body), 0)
        broker.send(2, (b"head", large), 0)
        broker.send(3, whole(large), 0)
        broker.ring()
        requests = [worker.claim() for _ in range(4)]
        assert all(requests)
        first, *others = (request for request in requests if request is not None)
        assert (first.payload, first.deadline_ns) == (whole(b"head"), 0)
        assert first.borrowed is not None
        borrowed = first.borrowed
        assert (borrowed.size, borrowed.whole(), borrowed.read(5, 9)) == (
            BORROW_FROM,
            large,
            large[5:9],
        )
        assert first.borrowed.read(BORROW_FROM - 1, BORROW_FROM + 9) == large[-1:]
        assert others == [
            Request(1, (b"head", large[1:]), 0),
            Request(2, (b"head", large), 0),
            Request(3, whole(large), 0),
        ]


def test_a_stored_body_above_the_limit_is_not_sent() -> None:
    with channel_pair() as (broker, _):
        body = broker.bodies.put(bytes(SMALL.max_message + 1))
        assert body is not None
        with pytest.raises(MessageTooLargeError):
            broker.send(1, (b"head", body), 0)
        assert broker.in_flight() == 0
        del body


def test_a_stored_request_counts_as_any_other() -> None:
    with channel_pair() as (broker, _):
        body = broker.bodies.put(BIG)
        assert body is not None
        for seq in range(SMALL.credits):
            broker.send(seq + 1, (b"head", body), 0)
        with pytest.raises(CreditError):
            broker.send(99, (b"head", body), 0)
        broker.ring()
        assert len(broker.revoke()) == SMALL.credits
        del body


def test_a_split_frame_arrives_split_whatever_its_size() -> None:
    with channel_pair() as (broker, worker):
        frame = (b"head", b"small body")
        broker.send(1, frame, 0)
        broker.ring()
        assert worker.claim() == Request(1, frame, 0)
        worker.answer(0, 1, frame, False, 3)
        assert broker.receive() == [Answer(1, False, frame, 3)]


def test_a_big_error_is_still_an_error() -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        worker.answer(0, 1, whole(BIG), True, 3)
        assert broker.receive() == [Answer(1, True, whole(BIG), 3)]


def test_a_revoked_big_request_frees_its_memory() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(BIG), 0)
        watched = os.dup(broker._spilled[1])
        broker.ring()
        assert broker.revoke() == [1]
        assert os.fstat(watched).st_blocks == 0
        os.close(watched)
        broker.send(2, whole(BIG[::-1]), 0)
        broker.ring()
        assert worker.claim() == Request(2, whole(BIG[::-1]), 0)


def test_answers_that_find_no_room_in_bulk_memory_take_their_own() -> None:
    options = ChannelOptions(capacity=4096, max_record=512, max_message=20_000)
    bodies = [bytes([number]) * (options.bulk_capacity // 2 - 64) for number in range(6)]
    with channel_pair(options) as (broker, worker):
        for seq in range(1, 7):
            broker.send(seq, whole(b""), 0)
        broker.ring()
        for slot, request in enumerate(claim_each(worker, range(6))):
            worker.answer(slot, request.seq, whole(bodies[slot]), False, 0)
        assert worker._parts.bulk_out.reserved > len(bodies[0])
        assert [answer.payload for answer in broker.receive()] == [whole(body) for body in bodies]


def test_answers_that_are_not_read_yet_are_not_overwritten() -> None:
    with channel_pair() as (broker, worker):
        for seq in (1, 2):
            broker.send(seq, whole(b""), 0)
        broker.ring()
        claim_each(worker, range(2))
        worker.answer(0, 1, whole(BIG), False, 0)
        worker.answer(1, 2, whole(BIG[::-1]), False, 0)
        assert [answer.payload for answer in broker.receive()] == [whole(BIG), whole(BIG[::-1])]


def test_overlapping_bodies_are_copied_as_they_lie() -> None:
    with channel_pair() as (broker, worker):
        memory = worker._parts.bulk_out._memory
        memory[:60_000] = b"a" * 20_000 + b"b" * 40_000
        for seq, offset in ((1, 0), (2, 10_000), (3, 0)):
            broker.send(seq, whole(b""), 0)
            worker._push(RecordType.SPILL_RESP, seq, 0, SPILL_PLACE.pack(40_000, offset))
        first, second, third = broker.drain()
        memory[:60_000] = b"c" * 60_000
        assert first.payload == third.payload == whole(b"a" * 20_000 + b"b" * 20_000)
        assert second.payload == whole(b"a" * 10_000 + b"b" * 30_000)


def test_idle_bulk_memory_is_given_back_when_the_broker_says_so() -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        worker.answer(0, 1, whole(BIG), False, 0)
        broker.receive()
        assert [broker.trim(), broker.trim(), broker.trim()] == [False, True, False]
        assert [message.name for message in worker.control.receive()] == ["trim"]
        worker.trim()
        assert worker._parts.bulk_out.reserved == 0
        start(broker, worker, seq=2)
        worker.answer(0, 2, whole(BIG), False, 0)
        assert broker.receive() == [Answer(2, False, whole(BIG), 0)]


def test_bulk_memory_in_use_is_not_given_back() -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        worker.answer(0, 1, whole(BIG), False, 0)
        for _ in range(3):
            worker.trim()
        assert broker.receive() == [Answer(1, False, whole(BIG), 0)]


@pytest.mark.parametrize(
    "payload",
    [b"", bytes(15), SPILL_PLACE.pack(SMALL.max_message + 1, 0), SPILL_PLACE.pack(100, SMALL.bulk_capacity - 99)],
    ids=["empty", "short", "above the limit", "outside"],
)
def test_an_impossible_spill_announcement_is_corruption(payload: bytes) -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        worker._push(RecordType.SPILL_RESP, 1, 0, payload)
        worker._ring(1)
        with pytest.raises(RingCorruptError):
            broker.receive()


def test_the_descriptors_of_answered_big_requests_are_given_back() -> None:
    with channel_pair() as (broker, worker):
        before = len(os.listdir("/proc/self/fd"))
        for seq in range(1, 30):
            broker.send(seq, whole(BIG), 0)
            broker.ring()
            worker.claim()
            worker.answer(0, seq, whole(BIG), False, 0)
            assert broker.receive() == [Answer(seq, False, whole(BIG), 0)]
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_request_above_the_limit_is_refused_and_nothing_sent() -> None:
    with channel_pair() as (broker, _):
        with pytest.raises(MessageTooLargeError) as caught:
            broker.send(1, whole(bytes(SMALL.max_message + 1)), 0)
        assert (caught.value.size, caught.value.limit) == (SMALL.max_message + 1, SMALL.max_message)
        assert broker.in_flight() == 0


def test_an_answer_above_the_limit_becomes_an_error() -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        worker.answer(0, 1, whole(bytes(SMALL.max_message + 1)), False, 5)
        (answer,) = broker.receive()
        status, message = error_of(answer)
        assert status == Status.TOO_LARGE
        assert message == f"the answer has {SMALL.max_message + 1} bytes"


def test_a_limit_below_the_record_size_holds_too() -> None:
    with channel_pair(ChannelOptions(capacity=4096, max_record=512, max_message=100)) as (broker, worker):
        with pytest.raises(MessageTooLargeError):
            broker.send(1, whole(bytes(101)), 0)
        broker.send(1, whole(bytes(100)), 0)
        broker.ring()
        worker.claim()
        worker.answer(0, 1, whole(bytes(101)), False, 0)
        assert error_of(broker.receive()[0])[0] == Status.TOO_LARGE


def no_memory() -> segment.Descriptors:
    raise SegmentError("no shared memory: No space left on device")


def test_no_memory_for_a_big_request_fails_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with channel_pair() as (broker, worker):
        monkeypatch.setattr("tykpy.ipc.bodies.memfd.create_memory", no_memory)
        with pytest.raises(SpillError, match="No space left"):
            broker.send(1, whole(BIG), 0)
        broker.send(2, whole(b"fine"), 0)
        broker.ring()
        assert worker.claim() == Request(2, whole(b"fine"), 0)


def test_no_memory_for_a_big_answer_fails_it_alone(no_bulk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        monkeypatch.setattr("tykpy.ipc.bodies.memfd.create_memory", no_memory)
        worker.answer(0, 1, whole(BIG), False, 5)
        status, message = error_of(broker.receive()[0])
        assert status == Status.INTERNAL
        assert "No space left" in message


def lost_descriptor(sock: socket.socket) -> tuple[bytes, None]:
    return sock.recv(16), None


def test_a_big_request_without_its_descriptor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(BIG), 0)
        broker.send(2, whole(b"fine"), 0)
        broker.ring()
        monkeypatch.setattr("tykpy.ipc.bodies.memfd._receive", lost_descriptor)
        assert worker.claim() == Request(2, whole(b"fine"), 0)
        assert error_of(broker.receive()[0])[0] == Status.INTERNAL


def test_a_big_answer_without_its_descriptor_fails_that_call(no_bulk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        worker.answer(0, 1, whole(BIG), False, 0)
        monkeypatch.setattr("tykpy.ipc.bodies.memfd._receive", lost_descriptor)
        (answer,) = broker.receive()
        assert error_of(answer)[0] == Status.INTERNAL
        assert broker.corrupt is None


def claim_without_a_token(broker: BrokerChannel, worker: WorkerChannel) -> None:
    """Start what is in the ring, and leave its token where the broker finds it."""
    worker._take = lambda: True
    assert worker.claim() is not None


def claim_and_give_the_token_back(broker: BrokerChannel, worker: WorkerChannel) -> None:
    assert worker.claim() is not None
    writer = os.open(f"/proc/self/fd/{broker._parts.requests._reader}", os.O_WRONLY)
    os.write(writer, b"\0")
    os.close(writer)


@pytest.mark.parametrize("cheat", [claim_without_a_token, claim_and_give_the_token_back])
@pytest.mark.parametrize("hidden", ["nothing", "active_seq", "head"])
def test_what_a_worker_has_started_cannot_be_taken_back(
    cheat: Callable[[BrokerChannel, WorkerChannel], None], hidden: str
) -> None:
    with channel_pair() as (broker, worker):
        for seq in (1, 2):
            broker.send(seq, whole(b""), 0)
        broker.ring()
        cheat(broker, worker)
        if hidden == "active_seq":
            worker._words[ACTIVE_SEQ] = 0
        elif hidden == "head":
            worker._words[HEAD] = 0
        for _ in range(2):
            with pytest.raises(RingCorruptError, match="have been started"):
                broker.revoke()
        assert broker.corrupt is not None
        assert broker.in_flight() == 2, "both may have run: neither may run again"


def test_a_drain_wakes_the_claiming_thread() -> None:
    with channel_pair() as (broker, worker):
        results: list[object] = []
        thread = Thread(target=lambda: results.append(worker.claim()))
        thread.start()
        assert broker.start_drain() == []
        thread.join()
        assert results == [None]
        assert worker.claim() is None


def test_a_worker_whose_broker_is_gone_claims_nothing_more() -> None:
    broker = BrokerChannel.create(slot=3, generation=9, epoch=77, options=SMALL)
    worker = WorkerChannel.attach(worker_argument_of_copies(broker))
    broker.send(1, whole(b""), 0)
    broker.ring()
    broker.close()
    assert worker.claim() is not None
    assert worker.claim() is None
    worker.close()


def test_a_drain_revokes_unclaimed_requests() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b""), 0)
        start(broker, worker, seq=2)
        assert broker.start_drain() == [2]
        assert worker.claim() is None
        assert broker.revoke() == []
        worker.answer(0, 1, whole(b"done"), False, 0)
        assert broker.receive() == [Answer(1, False, whole(b"done"), 0)]


def test_several_threads_share_the_requests() -> None:
    with channel_pair() as (broker, worker):
        seen: list[int] = []

        lead = Lock()

        def claim(slot: int) -> Request | None:
            with lead:
                return worker.claim(slot)

        def serve(slot: int) -> None:
            while (request := claim(slot)) is not None:
                seen.append(request.seq)
                worker.answer(slot, request.seq, request.payload, False, 0)

        threads = [Thread(target=serve, args=(slot,)) for slot in range(4)]
        for thread in threads:
            thread.start()
        answered: list[int] = []
        seq = 0
        while len(answered) < 2000:
            while seq < 2000 and broker.in_flight() < SMALL.credits:
                seq += 1
                broker.send(seq, whole(seq.to_bytes(8, "big") * (seq % 40)), 0)
            broker.ring()
            select.select([broker.answers_fd], [], [])
            for answer in broker.receive():
                assert answer.payload == whole(answer.seq.to_bytes(8, "big") * (answer.seq % 40))
                answered.append(answer.seq)
        broker.start_drain()
        for thread in threads:
            thread.join()
        assert sorted(answered) == sorted(seen) == list(range(1, 2001))


@pytest.mark.parametrize(
    ("time", "handler_ns", "waited_ns"),
    [
        (1_000, 1_000, None),
        (1_000 | 1 << WAITING_SHIFT, 1_000, 0),
        (1_000 | (1 + MAX_WAITING // 2) << WAITING_SHIFT, 1_000, 500),
        ((1 << 64) - 1, MAX_HANDLER_NS, MAX_HANDLER_NS),
    ],
)
def test_a_hook_waited_no_longer_than_it_ran(time: int, handler_ns: int, waited_ns: int | None) -> None:
    with channel_pair() as (broker, worker):
        for seq, size in ((1, 10), (2, SMALL.max_record)):
            start(broker, worker, seq=seq)
            worker.answer(0, seq, whole(bytes(size)), False, time)
            assert broker.receive() == [Answer(seq, False, whole(bytes(size)), handler_ns, waited_ns)]


def test_flags_of_a_request_arrive_with_it() -> None:
    """Also where it is too big for a record."""
    with channel_pair() as (broker, worker):
        for seq, size in ((1, 10), (2, SMALL.max_record)):
            broker.send(seq, whole(bytes(size)), 0, FLAG_MEASURE | FLAG_SHARES)
            broker.ring()
            request = worker.claim()
            assert request is not None
            assert request.flags == FLAG_MEASURE | FLAG_SHARES


def test_an_unannounced_answer_is_found_after_death() -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        worker._push(2, 1, 0, b"published")
        assert broker.receive() == []
        assert broker.drain() == [Answer(1, False, whole(b"published"), 0)]
        assert broker.drain() == []


def test_an_announced_answer_is_found_once() -> None:
    with channel_pair() as (broker, worker):
        start(broker, worker)
        worker.answer(0, 1, whole(b"x"), False, 0)
        assert broker.drain() == [Answer(1, False, whole(b"x"), 0)]


@pytest.mark.parametrize("seq", [0, 7, 2**64 - 1])
def test_an_answer_to_nothing_in_flight_is_corruption(seq: int) -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b""), 0)
        worker.answer(0, seq, whole(b""), False, 0)
        with pytest.raises(RingCorruptError, match="nothing in flight"):
            broker.receive()


def test_a_second_answer_is_corruption() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b""), 0)
        worker.answer(0, 1, whole(b""), False, 0)
        worker.answer(0, 1, whole(b""), False, 0)
        with pytest.raises(RingCorruptError, match="nothing in flight"):
            broker.receive()


def test_answers_before_the_damage_are_not_lost() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b""), 0)
        broker.send(2, whole(b""), 0)
        worker.answer(0, 1, whole(b"good"), False, 0)
        worker.answer(0, 9, whole(b"forged"), False, 0)
        with pytest.raises(RingCorruptError) as caught:
            broker.receive()
        assert broker.corrupt is caught.value
        with pytest.raises(RingCorruptError):
            broker.receive()
        assert broker.drain() == [Answer(1, False, whole(b"good"), 0)]
        assert broker.drain() == []


def test_more_tokens_than_answers_are_corruption() -> None:
    with channel_pair() as (broker, worker):
        worker._ring(2**63)
        with pytest.raises(RingCorruptError, match="a token without a record"):
            broker.receive()


def test_draining_a_corrupt_ring_says_so_and_does_not_raise() -> None:
    with channel_pair() as (broker, worker):
        worker._words[TAIL] = 12345
        assert broker.drain() == []
        assert broker.corrupt is not None
        assert broker.corrupt.numbers["tail"] == 12345


def test_a_worker_cannot_claim_to_execute_what_it_was_not_sent() -> None:
    with channel_pair() as (broker, worker):
        broker.send(1, whole(b""), 0)
        for slot in range(64):
            worker._words[ACTIVE_SEQ + slot] = 2**64 - 1 - slot
        worker._words[ACTIVE_SEQ + 10] = 1
        assert broker.executing() == {1}


def test_the_broker_reads_a_workers_state_in_its_header() -> None:
    with channel_pair() as (broker, worker):
        worker.show_storage(StorageState.FAILS, 7)
        worker.show_threads(5)
        assert not broker.was_signalled()
        worker.note_signal()
        assert (broker.storage_health(), broker.hook_threads()) == ((StorageState.FAILS, 7), 5)
        assert broker.was_signalled()
        assert worker.identity == Identity(Role.B, 77, 3, 9, 4096, 512, 65536)


def test_the_broker_reads_stacks_and_waits_for_none() -> None:
    with channel_pair() as (broker, worker):
        assert broker.written_stacks() == b""
        os.write(worker.stacks_fd, b"Thread 1")
        assert broker.written_stacks() == b"Thread 1"
        assert os.write(worker.stacks_fd, b"\xff" * MAX_STACKS) == MAX_STACKS
        with pytest.raises(BlockingIOError):
            os.write(worker.stacks_fd, b"x")
        assert broker.written_stacks() == b"\xff" * MAX_STACKS
        assert broker.written_stacks() == b""


def test_no_child_of_a_worker_inherits_the_channel() -> None:
    broker = BrokerChannel.create(1, 1, 1, SMALL)
    argument = worker_argument_of_copies(broker)
    descriptors = [int(number) for number in argument.split(",")]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    worker = WorkerChannel.attach(argument)
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors[2:])
    worker.close()
    broker.close()


@pytest.mark.parametrize("argument", ["", "eventfd", "1,2", "1,2,3,4,5,6,7,8", "a,b,c,d,e,f,g,h,i"])
def test_an_invalid_argument_is_refused(argument: str) -> None:
    with pytest.raises(SegmentError, match=r"argument|descriptors"):
        WorkerChannel.attach(argument)


def test_descriptors_that_are_not_there_are_refused() -> None:
    with pytest.raises(SegmentError, match="not there"):
        WorkerChannel.attach("901,902,903,904,905,906,907,908,909")


def test_segments_of_two_generations_are_refused() -> None:
    first = BrokerChannel.create(1, 1, 1, SMALL)
    second = BrokerChannel.create(1, 2, 1, SMALL)
    own = worker_argument_of_copies(first).split(",")
    other = worker_argument_of_copies(second).split(",")
    with pytest.raises(SegmentError, match="belong together"):
        WorkerChannel.attach(",".join([own[0], other[1], *own[2:]]))
    for number in {*own, *other} - {own[0], other[1]}:
        os.close(int(number))
    first.close()
    second.close()


def test_a_ring_in_the_wrong_direction_is_refused() -> None:
    broker = BrokerChannel.create(1, 1, 1, SMALL)
    numbers = worker_argument_of_copies(broker).split(",")
    with pytest.raises(SegmentError, match="belongs"):
        WorkerChannel.attach(",".join([numbers[1], numbers[0], *numbers[2:]]))
    for number in numbers[0:1] + numbers[2:]:
        os.close(int(number))
    broker.close()


def test_a_channel_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("socket.socketpair", none_left)
    with pytest.raises(SegmentError, match="Too many open files"):
        BrokerChannel.create(1, 1, 1, SMALL)


def test_closing_twice_is_harmless() -> None:
    broker = BrokerChannel.create(1, 1, 1, SMALL)
    broker.send(1, whole(BIG), 0)
    broker.close()
    broker.close()


@pytest.mark.parametrize(
    "sizes",
    [
        {"capacity": 1000},
        {"capacity": 0},
        {"capacity": 1 << 31},
        {"max_record": 100},
        {"max_record": 32},
        {"capacity": 65536, "max_record": 65536},
        {"capacity": 1 << 20, "max_record": 64},
        {"max_message": 0},
    ],
)
def test_sizes_that_cannot_work_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(OptionsError):
        ChannelOptions(**sizes)


def test_the_default_sizes_leave_fourteen_credits() -> None:
    assert ChannelOptions().credits == 14
