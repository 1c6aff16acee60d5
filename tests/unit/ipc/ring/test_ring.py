"""One ring: what is pushed is popped, whole and in order, and nothing else is."""

import os
import struct
from typing import Any
from zlib import crc32

import pytest

from tests.unit.ipc.channel.ends import Rings, rings
from tykpy.ipc.errors import RingCorruptError, RingFullError
from tykpy.ipc.ring.layout import HEAD, HEADER_SIZE, RECORD_CHECKED, RECORD_HEADER, TAIL, RecordType, record_size
from tykpy.ipc.ring.ring import Producer

REQ = int(RecordType.REQ)


def forged(position: int, payload: bytes = b"", **changes: int) -> bytes:
    """A record with a right CRC and, where asked, wrong fields."""
    fields = {"length": len(payload), "kind": REQ, "seq": 1, "aux": 0, "generation": 3, **changes}
    crc = crc32(RECORD_CHECKED.pack(*fields.values()), crc32(payload, position >> 5))
    return RECORD_HEADER.pack(*fields.values(), crc) + payload


def test_a_record_arrives_as_it_was_sent() -> None:
    with rings() as both:
        both.producer.push(REQ, 2**64 - 1, 2**63, b"payload")
        assert both.consumer.pop() == (REQ, 2**64 - 1, 2**63, b"payload")


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 480])
def test_payloads_of_every_alignment_arrive(length: int) -> None:
    with rings() as both:
        payload = os.urandom(length)
        both.producer.push(REQ, 1, 0, payload)
        assert both.consumer.pop()[3] == payload
        assert both.tail == record_size(length)


def test_many_laps_with_padding_keep_the_order() -> None:
    with rings() as both:
        for seq in range(1, 500):
            payload = bytes([seq % 256]) * (seq * 37 % 480)
            both.producer.push(REQ, seq, 0, payload)
            assert both.consumer.pop() == (REQ, seq, 0, payload)
            both.consumer.commit()
        assert both.tail > 20 * 4096


def test_a_record_that_would_wrap_goes_behind_padding() -> None:
    with rings() as both:
        for _ in range(8):
            both.producer.push(REQ, 1, 0, bytes(448))
            both.consumer.pop()
        both.consumer.commit()
        assert both.tail == 4096 - 256
        both.producer.push(REQ, 2, 0, bytes(300))
        assert both.tail == 4096 + record_size(300)
        assert both.consumer.pop()[:2] == (REQ, 2)


def test_a_full_ring_raises_with_the_numbers_and_writes_nothing() -> None:
    with rings() as both:
        for seq in range(8):
            both.producer.push(REQ, seq, 0, bytes(480))
        before = bytes(both.a_writable.memory)
        with pytest.raises(RingFullError) as caught:
            both.producer.push(REQ, 9, 0, b"x")
        assert (caught.value.needed, caught.value.free, caught.value.capacity) == (64, 0, 4096)
        assert bytes(both.a_writable.memory) == before


def test_padding_never_overwrites_what_was_not_consumed() -> None:
    with rings() as both:
        for seq in range(1, 8):
            both.producer.push(REQ, seq, 0, bytes(500))
        before = bytes(both.a_writable.memory)
        with pytest.raises(RingFullError):
            both.producer.push(REQ, 8, 0, bytes(500))
        assert bytes(both.a_writable.memory) == before


def test_room_comes_back_with_the_commit_and_not_before() -> None:
    with rings() as both:
        for seq in range(8):
            both.producer.push(REQ, seq, 0, bytes(480))
        both.consumer.pop()
        with pytest.raises(RingFullError):
            both.producer.push(REQ, 9, 0, bytes(480))
        both.consumer.commit()
        both.producer.push(REQ, 9, 0, bytes(480))


class Stores:
    """A segment's words that note the order of the stores."""

    def __init__(self, words: memoryview, seen: list[tuple[str, int]], memory: Any) -> None:
        self._words = words
        self._seen = seen
        self._memory = memory

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        self._seen.append(("record written", int(self._memory[HEADER_SIZE + 4])))
        self._seen.append(("tail" if index == TAIL else "other", value))
        self._words[index] = value

    def release(self) -> None:
        """As memoryview does."""
        self._words.release()


def test_the_tail_is_stored_after_the_whole_record_and_only_once() -> None:
    with rings() as both:
        seen: list[tuple[str, int]] = []
        both.a_writable.words = Stores(both.a_writable.words, seen, both.a_writable.memory)  # type: ignore[assignment]
        Producer(both.a_writable, both.b_readable).push(REQ, 1, 0, b"abc")
        assert seen == [("record written", REQ), ("tail", 64)]


def test_a_rewound_record_is_replaced_by_the_next_one() -> None:
    with rings() as both:
        both.producer.push(REQ, 1, 0, b"first")
        start = both.producer.push(REQ, 2, 0, b"revoked" * 20)
        both.producer.push(REQ, 3, 0, b"revoked too")
        both.producer.rewind(start)
        assert both.tail == start
        both.producer.push(REQ, 4, 0, b"second" * 40)
        assert [both.consumer.pop()[1] for _ in range(2)] == [1, 4]


def test_a_consumer_survives_a_rewound_tail() -> None:
    with rings() as both:
        both.producer.push(REQ, 1, 0, b"")
        start = both.producer.push(REQ, 2, 0, b"")
        assert both.consumer.pop()[1] == 1
        both.producer.rewind(start)
        both.producer.push(REQ, 3, 0, bytes(400))
        assert both.consumer.pop() == (REQ, 3, 0, bytes(400))


def test_rewinding_over_padding_gives_its_room_back() -> None:
    with rings() as both:
        for _ in range(8):
            both.producer.push(REQ, 1, 0, bytes(448))
            both.consumer.pop()
        both.consumer.commit()
        start = both.producer.push(REQ, 2, 0, bytes(300))
        both.producer.rewind(start)
        assert both.tail == 4096 - 256
        both.producer.push(REQ, 3, 0, bytes(100))
        assert both.consumer.pop()[:2] == (REQ, 3)


def test_a_token_without_a_record_is_corruption() -> None:
    with rings() as both, pytest.raises(RingCorruptError, match="a token without a record"):
        both.consumer.pop()


@pytest.mark.parametrize("tail", [2**64 - 32, 4096 + 32, 33, 1, 2**63])
def test_an_impossible_tail_is_corruption(tail: int) -> None:
    with rings() as both:
        both.producer.push(REQ, 1, 0, b"")
        both.a_writable.words[TAIL] = tail
        with pytest.raises(RingCorruptError) as caught:
            both.consumer.pop()
        assert caught.value.numbers["tail"] in (tail, 32)


def test_a_tail_that_goes_back_before_the_reader_is_corruption() -> None:
    with rings() as both:
        both.producer.push(REQ, 1, 0, b"")
        both.consumer.pop()
        both.a_writable.words[TAIL] = 0
        with pytest.raises(RingCorruptError, match="impossible tail"):
            both.consumer.pop()


@pytest.mark.parametrize("head", [2**64 - 1, 8192, 4128])
def test_an_impossible_head_is_corruption_for_the_producer(head: int) -> None:
    with rings() as both:
        fill(both)
        both.b_writable.words[HEAD] = head
        with pytest.raises(RingCorruptError, match="impossible head"):
            both.producer.push(REQ, 9, 0, bytes(480))


def test_a_head_that_goes_back_is_corruption_for_the_producer() -> None:
    with rings() as both:
        fill(both)
        both.b_writable.words[HEAD] = 512
        both.producer.push(REQ, 9, 0, bytes(480))
        both.b_writable.words[HEAD] = 0
        with pytest.raises(RingCorruptError, match="impossible head"):
            both.producer.push(REQ, 10, 0, bytes(480))


def fill(both: Rings) -> None:
    """Eight records of the biggest size."""
    for seq in range(8):
        both.producer.push(REQ, seq, 0, bytes(480))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 0},
        {"kind": 99},
        {"kind": RecordType.SPILL_REQ},
        {"kind": REQ | 1 << 8},
        {"kind": REQ | 1 << 16},
        {"kind": REQ | 1 << 31},
        {"generation": 2},
        {"generation": 2**32 - 1},
        {"length": 481},
        {"length": 2**32 - 1},
        {"length": 64},
        {"kind": RecordType.PAD},
        {"kind": RecordType.PAD, "length": 4096 - 32},
        {"kind": RecordType.PAD, "length": 2**32 - 32, "seq": 0},
    ],
)
def test_a_forged_field_with_a_right_crc_is_corruption(changes: dict[str, int]) -> None:
    with rings() as both:
        both.producer.push(REQ, 1, 0, b"")
        both.damage(0, forged(0, b"", **changes))
        with pytest.raises(RingCorruptError, match="impossible record"):
            both.consumer.pop()


def test_a_record_beyond_the_end_of_the_ring_is_corruption() -> None:
    with rings() as both:
        for _ in range(127):
            both.producer.push(REQ, 1, 0, b"")
            both.consumer.pop()
        both.consumer.commit()
        both.producer.push(REQ, 1, 0, b"")
        both.producer.push(REQ, 1, 0, b"")
        both.damage(4064, forged(4064, length=32)[:32])
        with pytest.raises(RingCorruptError, match="impossible record"):
            both.consumer.pop()


def test_a_forged_record_is_the_control_group() -> None:
    with rings() as both:
        both.producer.push(REQ, 1, 0, b"abc")
        both.damage(0, forged(0, b"xyz", seq=7))
        assert both.consumer.pop() == (REQ, 7, 0, b"xyz")


def test_a_record_of_another_place_is_corruption() -> None:
    with rings() as both:
        both.producer.push(REQ, 1, 0, b"")
        both.damage(0, forged(4096))
        with pytest.raises(RingCorruptError, match="CRC"):
            both.consumer.pop()


def test_a_record_of_the_lap_before_is_corruption() -> None:
    """Sound to the last bit, and at its place: but that was one lap ago."""
    with rings() as both:
        for seq in range(4096 // 512):
            both.producer.push(REQ, seq, 0, bytes(480))
            both.consumer.pop()
        both.consumer.commit()
        both.a_writable.words[TAIL] = both.tail + 512
        with pytest.raises(RingCorruptError, match="the CRC does not fit"):
            both.consumer.pop()


def test_the_position_does_not_move_over_a_damaged_record() -> None:
    with rings() as both:
        both.producer.push(REQ, 1, 0, b"abc")
        good = bytes(both.a_writable.memory[HEADER_SIZE : HEADER_SIZE + 64])
        both.damage(0, struct.pack("<I", 1))
        with pytest.raises(RingCorruptError):
            both.consumer.pop()
        both.damage(0, good)
        assert both.consumer.pop()[3] == b"abc"


def test_two_paddings_in_a_row_are_corruption() -> None:
    with rings() as both:
        for _ in range(8):
            both.producer.push(REQ, 1, 0, bytes(448))
            both.consumer.pop()
        both.consumer.commit()
        both.producer.push(REQ, 2, 0, bytes(300))
        both.damage(0, forged(4096, kind=RecordType.PAD, length=4096 - 32, seq=0))
        with pytest.raises(RingCorruptError, match="impossible record"):
            both.consumer.pop()


def test_a_record_bigger_than_agreed_is_corruption() -> None:
    with rings() as both:
        fill(both)
        both.damage(0, forged(0, bytes(481)))
        with pytest.raises(RingCorruptError, match="impossible record"):
            both.consumer.pop()


def test_padding_over_a_whole_lap_is_corruption() -> None:
    with rings() as both:
        fill(both)
        both.damage(0, forged(0, kind=RecordType.PAD, length=4096 - 32, seq=0))
        with pytest.raises(RingCorruptError, match="impossible record"):
            both.consumer.pop()
