"""Frames: what is packed is unpacked, with a big body in the frame or beside it."""

import struct
import tracemalloc
from collections.abc import Callable

import msgpack
import pytest

from tykpy.ipc.frame import (
    MAX_ERROR,
    SPLIT_ABOVE,
    Frame,
    Kind,
    Packed,
    Status,
    pack_error,
    pack_frame,
    unpack_answer,
    unpack_error,
    unpack_frame,
)


def raw(*fields: object) -> Packed:
    """Any array as a frame."""
    return msgpack.packb(fields), None


HEAD = msgpack.packb([Kind.OBJECT, None, None])


def test_a_traced_request_carries_its_span() -> None:
    trace = {"traceparent": "00-1-2-01"}
    assert unpack_frame(pack_frame(Kind.OBJECT, None, b"body", trace)) == Frame(Kind.OBJECT, None, b"body", trace)
    assert pack_frame(Kind.OBJECT, None, b"body") == raw(Kind.OBJECT, None, b"body")


@pytest.mark.parametrize("size", [2, SPLIT_ABOVE, SPLIT_ABOVE + 1, 10**6])
def test_a_body_comes_back_and_a_big_one_was_never_copied(size: int) -> None:
    body = bytes(size)
    packed = pack_frame(Kind.OBJECT, {"a": 1}, body)
    assert (packed[1] is body) == (size > SPLIT_ABOVE)
    frame = unpack_frame(packed)
    assert frame == Frame(Kind.OBJECT, {"a": 1}, body)
    assert (frame.body is body) == (size > SPLIT_ABOVE)


@pytest.mark.parametrize("character", ["x", "\ud800", "\u20ac"])
def test_a_long_error_is_cut_and_never_split(character: str) -> None:
    packed = pack_error(Status.INTERNAL, character * 2 * SPLIT_ABOVE, {"hook": character * 2 * SPLIT_ABOVE})
    frame = unpack_frame(packed)
    head, body = packed
    assert body is None
    assert len(head) < SPLIT_ABOVE
    assert frame.body[0] == Status.INTERNAL
    assert frame.body[1].endswith("...")
    assert len(frame.meta["hook"]) < len(frame.body[1]) <= MAX_ERROR


def test_surrogates_in_an_error_are_escaped() -> None:
    frame = unpack_frame(pack_error(Status.INTERNAL, "user \ud800", {"event": "\udfff"}))
    assert frame.body == [Status.INTERNAL, "user \\ud800"]
    assert frame.meta == {"event": "\\udfff"}


@pytest.mark.parametrize("head", [b"", b"\xc1", b"\x92\x01\x02", HEAD + b"x"])
def test_a_split_frame_whose_head_is_no_frame_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match="not a frame"):
        unpack_frame((head, b"body"))


@pytest.mark.parametrize("size", [0, SPLIT_ABOVE, SPLIT_ABOVE + 1])
def test_an_answer_is_its_kind_and_its_body(size: int) -> None:
    assert unpack_answer(pack_frame(Kind.OBJECT, None, bytes(size))) == (Kind.OBJECT, None, bytes(size))


def test_an_answer_names_unchanged_ranges() -> None:
    assert unpack_answer(pack_frame(Kind.OBJECT, ((1, 2), (3, 4)), b"x")) == (Kind.OBJECT, ((1, 2), (3, 4)), b"x")


def test_an_error_is_its_status_and_its_message() -> None:
    packed = pack_error(Status.NOT_FOUND, "no hook", {"hook": "a"})
    assert unpack_error(packed) == (Status.NOT_FOUND, "no hook")


@pytest.mark.parametrize(
    "packed",
    [
        (b"", None),
        (b"\xc1", None),
        (HEAD, None),
        raw(Kind.OBJECT, {"a": 1}, None),
        pack_frame(Kind.OBJECT, ((1, 2), (3, 4), (5, 6)), b"x"),
        pack_frame(Kind.OBJECT, ((1,),), b"x"),
        raw(Kind.OBJECT, None, "text"),
        raw(Kind.OBJECT, None, [b"x"]),
        (b"", b"x"),
        (raw("kind", None, None)[0], b"x"),
        (b"\x93\x01\xc0\xc4\x01y", b"x"),
    ],
)
def test_nonsense_is_no_answer(packed: Packed) -> None:
    with pytest.raises(ValueError, match="answer"):
        unpack_answer(packed)


@pytest.mark.parametrize(
    "packed", [(b"", None), (b"\xc1", None), raw(Kind.ERROR, None, None), raw(Kind.ERROR, None, ["x", 1]), (b"", b"")]
)
def test_nonsense_is_no_error(packed: Packed) -> None:
    with pytest.raises(ValueError, match="error"):
        unpack_error(packed)


@pytest.mark.parametrize("unpack", [unpack_answer, unpack_error])
@pytest.mark.parametrize("place", [1, 2])
def test_an_answer_of_lists_is_never_built(unpack: Callable[[Packed], object], place: int) -> None:
    count = 1_000_000
    bomb = b"\xdd" + struct.pack(">I", count) + b"\x90" * count
    packed = b"\x93" + b"".join(bomb if at == place else b"\x01" for at in range(3))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not an"):
            unpack((packed, None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < count
