"""Descriptions of bundles arrive in pieces, and whatever a worker sends takes a bounded amount of memory."""

from typing import Any

import msgpack
import pytest

from tykpy.broker.catalog.described import Described
from tykpy.ipc.channel.control import MAX_CONTROL_BYTES
from tykpy.ipc.description import MAX_ACCEPTED, MAX_FILE, MAX_HOOKS, MAX_MESSAGE, MAX_NAME, PIECE_HOOKS, pieces_of
from tykpy.ipc.errors import ControlCorruptError


def bundle(path: str, hooks: int, faulty: int = 0) -> dict[str, Any]:
    return {"path": path, "hooks": [{"name": str(number)} for number in range(hooks)], "faulty": [{}] * faulty}


def sent(described: Described, told: dict[str, Any]) -> list[dict[str, Any] | None]:
    return [described.add(piece, 10) for piece in pieces_of(told)]


@pytest.mark.parametrize(
    ("hooks", "faulty"),
    [(0, 0), (1, 0), (PIECE_HOOKS, 1), (PIECE_HOOKS + 1, 0), (3 * PIECE_HOOKS, 1000), (0, MAX_HOOKS)],
)
def test_a_bundle_is_put_together_from_its_pieces(hooks: int, faulty: int) -> None:
    described, told = Described(), bundle("/a", hooks, faulty)
    *begun, whole = sent(described, told)
    assert (set(begun) - {None}, whole) == (set(), told)
    assert described.bundles == [told]


def test_a_later_description_takes_the_place_of_the_first() -> None:
    described = Described()
    sent(described, bundle("/a", 1))
    sent(described, bundle("/b", 1))
    sent(described, bundle("/a", 2))
    assert described.bundles == [bundle("/a", 2), bundle("/b", 1)]


def test_endless_pieces_of_one_bundle_are_refused() -> None:
    described, piece = Described(), {**bundle("/a", PIECE_HOOKS), "more": True}
    for _ in range(MAX_HOOKS // PIECE_HOOKS):
        described.add(piece, 1)
    with pytest.raises(ControlCorruptError):
        described.add(piece, 1)


def test_pieces_of_two_bundles_are_not_mixed() -> None:
    described = Described()
    described.add({**bundle("/a", 1), "more": True}, 1)
    with pytest.raises(ControlCorruptError):
        described.add({**bundle("/b", 1), "more": False}, 1)


def test_endless_bundles_are_refused_and_endless_news_of_one_are_not() -> None:
    described, size = Described(), MAX_ACCEPTED // 10
    for _ in range(100):
        described.add({**bundle("/a", 1), "more": False}, size)
    for number in range(9):
        described.add({**bundle(str(number), 1), "more": False}, size)
    with pytest.raises(ControlCorruptError):
        described.add({**bundle("9", 1), "more": False}, size)


def test_a_piece_of_the_longest_texts_fits_into_a_message() -> None:
    hook = {"name": "\U0001f600" * MAX_NAME, "file": "\U0001f600" * MAX_FILE, "rest": "x" * 200}
    fault = {**hook, "message": "\U0001f600" * MAX_MESSAGE}
    told = {"path": "/a", "hooks": [hook] * MAX_HOOKS, "faulty": [fault] * MAX_HOOKS}
    assert max(len(msgpack.packb(piece)) for piece in pieces_of(told)) < MAX_CONTROL_BYTES
