"""The layout is a contract: these numbers may only change together with its version."""

import pytest

from tykpy.ipc.errors import SegmentError
from tykpy.ipc.ring import layout
from tykpy.ipc.ring.layout import Identity, RecordType, Role, record_size

IDENTITY = Identity(Role.B, epoch=2**63, slot=5, generation=8, capacity=1 << 20, max_record=65536, max_message=1 << 24)


def test_every_word_is_where_the_drawing_says() -> None:
    offsets = {
        name: getattr(layout, name) * layout.WORD
        for name in (
            "TAIL",
            "HEAD",
            "STORAGE_STATE",
            "STORAGE_ERRORS",
            "THREADS",
            "SIGNALLED",
            "ACTIVE_SEQ",
            "ACTIVE_START",
        )
    }
    assert offsets == {
        "TAIL": 0x080,
        "HEAD": 0x100,
        "STORAGE_STATE": 0x180,
        "STORAGE_ERRORS": 0x188,
        "THREADS": 0x190,
        "SIGNALLED": 0x198,
        "ACTIVE_SEQ": 0x200,
        "ACTIVE_START": 0x500,
    }
    assert layout.HEADER_SIZE == 0x1000


def test_words_of_different_writers_share_no_cache_line_pair() -> None:
    assert len({index * layout.WORD // 128 for index in (layout.TAIL, layout.HEAD, layout.STORAGE_STATE)}) == 3


def test_execution_slots_do_not_overlap_their_start_times() -> None:
    assert layout.ACTIVE_SEQ + layout.EXECUTION_SLOTS == layout.ACTIVE_START
    assert layout.ACTIVE_START + layout.EXECUTION_SLOTS <= layout.HEADER_SIZE // layout.WORD


def test_a_header_always_fits_before_the_end_of_the_ring() -> None:
    assert layout.RECORD_HEADER.size == layout.ALIGNMENT == layout.RECORD_CHECKED.size + 4
    assert 1 << layout.POSITION_SHIFT == layout.ALIGNMENT


def test_record_headers_are_little_endian() -> None:
    header = layout.RECORD_HEADER.pack(0x01020304, RecordType.ERR, 0x1122334455667788, 9, 10, 11)
    assert header[:8] == bytes((4, 3, 2, 1, 7, 0, 0, 0))
    assert header[8] == 0x88


@pytest.mark.parametrize(("length", "size"), [(0, 32), (1, 64), (32, 64), (33, 96), (900, 960)])
def test_records_are_aligned(length: int, size: int) -> None:
    assert record_size(length) == size


def test_the_static_block_survives_the_trip() -> None:
    assert Identity.unpack(IDENTITY.pack()) == IDENTITY


def test_any_flipped_bit_of_the_static_block_is_refused() -> None:
    for bit in range(layout.STATIC_SIZE * 8):
        data = bytearray(IDENTITY.pack())
        data[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(SegmentError):
            Identity.unpack(bytes(data))


def test_a_short_static_block_is_refused() -> None:
    with pytest.raises(SegmentError, match="cut off"):
        Identity.unpack(IDENTITY.pack()[:-1])


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "VERSION", layout.VERSION + 1)
    newer = IDENTITY.pack()
    monkeypatch.undo()
    with pytest.raises(SegmentError, match=f"version {layout.VERSION + 1}"):
        Identity.unpack(newer)
