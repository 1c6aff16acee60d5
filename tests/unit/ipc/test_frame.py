"""Frames: what is packed is unpacked, with a big body in the frame or beside it."""

import pytest

from ipc.frame import SPLIT_ABOVE, Frame, Kind, SplitFrame, Status, pack_error, pack_frame, pack_head, unpack_frame


@pytest.mark.parametrize("size", [2, SPLIT_ABOVE, SPLIT_ABOVE + 1, 10**6])
def test_a_body_comes_back_and_a_big_one_was_never_copied(size: int) -> None:
    body = bytes(size)
    packed = pack_frame(Kind.OBJECT, {"a": 1}, body)
    assert isinstance(packed, SplitFrame) == (size > SPLIT_ABOVE)
    frame = unpack_frame(packed)
    assert frame == Frame(Kind.OBJECT, {"a": 1}, body)
    assert (frame.body is body) == (size > SPLIT_ABOVE)


def test_only_bytes_are_split() -> None:
    body = ["x" * SPLIT_ABOVE, 5]
    packed = pack_frame(Kind.ERROR, None, body)
    assert isinstance(packed, bytes)
    assert unpack_frame(packed).body == body


def test_an_error_is_never_split() -> None:
    packed = pack_error(Status.INTERNAL, "x" * 2 * SPLIT_ABOVE)
    assert unpack_frame(packed).body == [Status.INTERNAL, "x" * 2 * SPLIT_ABOVE]


@pytest.mark.parametrize("head", [b"", b"\xc1", b"\x92\x01\x02", pack_head(Kind.OBJECT, None) + b"x"])
def test_a_split_frame_whose_head_is_no_frame_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match="not a frame"):
        unpack_frame(SplitFrame(head, b"body"))
