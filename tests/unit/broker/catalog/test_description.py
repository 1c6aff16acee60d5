"""What workers describe: complete descriptions from pieces, and their comparison."""

from typing import Any

import msgpack
import pytest

from tykpy.broker.catalog.description import DescriptionBuilder, compare, version_of
from tykpy.ipc.channel.control import MAX_CONTROL_BYTES
from tykpy.ipc.description import MAX_ACCEPTED, MAX_FILE, MAX_HOOKS, MAX_MESSAGE, MAX_NAME, PIECE_HOOKS, pieces_of
from tykpy.ipc.errors import ControlCorruptError


def bundle(name: str, *faults: str, version: str = "1", error: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "path": f"/bundles/{name}",
        "hashes": [],
        "version": version,
        "error": {"message": error, "file": "/bundles/f.py", "line": 3} if error else None,
        "hooks": [{"name": "one"}],
        "faulty": [{"name": "two", "message": fault, "file": "", "line": 0} for fault in faults],
    }


def test_changes_are_named() -> None:
    before = [bundle("same"), bundle("changed"), bundle("gone")]
    after = [bundle("same"), bundle("changed", version="2"), bundle("new", "a fault")]
    assert compare(before, after) == [
        ("changed", "changed", 1, (), ()),
        ("gone", "gone", 0, (), ()),
        ("new", "new", 1, ("bundle new: a fault",), ()),
        ("same", "same", 1, (), ()),
    ]


def test_workers_that_loaded_the_same_have_the_same_version() -> None:
    assert version_of([bundle("a"), bundle("b")]) == version_of([bundle("b"), bundle("a")])
    assert version_of([bundle("a")]) != version_of([bundle("a", version="2")])
    assert version_of([]) == ""


def piece_of(path: str, hooks: int, faulty: int = 0) -> dict[str, Any]:
    return {"path": path, "hooks": [{"name": str(number)} for number in range(hooks)], "faulty": [{}] * faulty}


def sent(described: DescriptionBuilder, told: dict[str, Any]) -> list[dict[str, Any] | None]:
    return [described.add(piece, 10) for piece in pieces_of(told)]


@pytest.mark.parametrize(
    ("hooks", "faulty"),
    [(0, 0), (1, 0), (PIECE_HOOKS, 1), (PIECE_HOOKS + 1, 0), (3 * PIECE_HOOKS, 1000), (0, MAX_HOOKS)],
)
def test_a_bundle_is_put_together_from_its_pieces(hooks: int, faulty: int) -> None:
    described, told = DescriptionBuilder(), piece_of("/a", hooks, faulty)
    *begun, whole = sent(described, told)
    assert (set(begun) - {None}, whole) == (set(), told)
    assert described.bundles == [told]


def test_a_later_description_replaces_the_first() -> None:
    described = DescriptionBuilder()
    sent(described, piece_of("/a", 1))
    sent(described, piece_of("/b", 1))
    sent(described, piece_of("/a", 2))
    assert described.bundles == [piece_of("/a", 2), piece_of("/b", 1)]


def test_endless_pieces_of_one_bundle_are_refused() -> None:
    described, piece = DescriptionBuilder(), {**piece_of("/a", PIECE_HOOKS), "more": True}
    for _ in range(MAX_HOOKS // PIECE_HOOKS):
        described.add(piece, 1)
    with pytest.raises(ControlCorruptError):
        described.add(piece, 1)


def test_pieces_of_two_bundles_are_not_mixed() -> None:
    described = DescriptionBuilder()
    described.add({**piece_of("/a", 1), "more": True}, 1)
    with pytest.raises(ControlCorruptError):
        described.add({**piece_of("/b", 1), "more": False}, 1)


def test_endless_bundles_are_refused_but_not_updates() -> None:
    described, size = DescriptionBuilder(), MAX_ACCEPTED // 10
    for _ in range(100):
        described.add({**piece_of("/a", 1), "more": False}, size)
    for number in range(9):
        described.add({**piece_of(str(number), 1), "more": False}, size)
    with pytest.raises(ControlCorruptError):
        described.add({**piece_of("9", 1), "more": False}, size)


def test_a_piece_of_the_longest_texts_fits_into_a_message() -> None:
    hook = {"name": "\U0001f600" * MAX_NAME, "file": "\U0001f600" * MAX_FILE, "rest": "x" * 200}
    fault = {**hook, "message": "\U0001f600" * MAX_MESSAGE}
    told = {"path": "/a", "hooks": [hook] * MAX_HOOKS, "faulty": [fault] * MAX_HOOKS}
    assert max(len(msgpack.packb(piece)) for piece in pieces_of(told)) < MAX_CONTROL_BYTES
