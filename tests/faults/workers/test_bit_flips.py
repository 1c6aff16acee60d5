"""Single bits flipped in waiting records of a ring: each is detected before the record is used."""

import random
from collections import Counter
from typing import Final, NamedTuple

import pytest

from tests.unit.ipc.channel.ends import Rings, rings
from tykpy.ipc.errors import RingCorruptError
from tykpy.ipc.ring.layout import ALIGNMENT, HEADER_SIZE, RECORD_HEADER, RecordType

CAPACITY: Final = 4096
SIZES: Final = (0, 1, 31, 32, 33, 200, 480)
MOST_WAITING: Final = 6
"""Records of any of these sizes that find room together, with padding before them."""


class Live(NamedTuple):
    """A record that was published and not consumed."""

    start: int
    """Position of its header."""
    length: int
    """Of header and payload, in bytes."""
    content: tuple[int, int, int, bytes]
    """What `pop` gives."""
    padding: int | None
    """Position of the padding before it."""


def publish(both: Rings, seq: int, payload: bytes) -> Live:
    content = (int(RecordType.REQ), seq, seq * 7, payload)
    before = both.producer.push(*content)
    length = RECORD_HEADER.size + len(payload)
    start = both.tail - (length + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return Live(start, length, content, before if before != start else None)


def flip(both: Rings, position: int, bit: int) -> None:
    both.a_writable.memory[HEADER_SIZE + (position + bit // 8) % CAPACITY] ^= 1 << bit % 8


def check_flip(both: Rings, waiting: list[Live], hit: int, position: int, bit: int) -> None:
    """Records before the damage arrive intact, then comes the error; with the damage undone, the rest arrives."""
    flip(both, position, bit)
    for record in waiting[:hit]:
        assert both.consumer.pop() == record.content
    with pytest.raises(RingCorruptError):
        both.consumer.pop()
    flip(both, position, bit)
    for record in waiting[hit:]:
        assert both.consumer.pop() == record.content
    both.consumer.commit()


def flip_bits(flips: int) -> Counter[str]:
    """Flip one bit at a time in one of several waiting records, over many laps of one ring; return where."""
    chance = random.Random(flips)
    places: Counter[str] = Counter()
    with rings(CAPACITY) as both:
        for number in range(flips):
            waiting = [
                publish(both, number * MOST_WAITING + n, chance.randbytes(chance.choice(SIZES)))
                for n in range(chance.randrange(1, MOST_WAITING + 1))
            ]
            hit = chance.randrange(len(waiting))
            record = waiting[hit]
            if record.padding is not None and chance.random() < 0.5:
                check_flip(both, waiting, hit, record.padding, chance.randrange(RECORD_HEADER.size * 8))
                places["padding"] += 1
            else:
                bit = chance.randrange(record.length * 8)
                check_flip(both, waiting, hit, record.start, bit)
                places["header" if bit < RECORD_HEADER.size * 8 else "payload"] += 1
    return places


def test_every_bit_of_a_record_is_looked_at() -> None:
    with rings(CAPACITY) as both:
        for seq, size in enumerate((0, 33, 100)):
            for bit in range((RECORD_HEADER.size + size) * 8):
                record = publish(both, seq, random.Random(bit).randbytes(size))
                check_flip(both, [record], 0, record.start, bit)


def test_any_bit_of_any_waiting_record() -> None:
    places = flip_bits(20_000)
    assert places.keys() == {"header", "payload", "padding"}


@pytest.mark.soak
def test_a_million_bits() -> None:
    places = flip_bits(1_000_000)
    print(f"1,000,000 flips, all detected: {dict(places)}")
