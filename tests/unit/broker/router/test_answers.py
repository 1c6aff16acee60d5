"""Answers that refer to fields of their request, which the broker still has, instead of repeating them."""

from collections.abc import Iterator

import pytest

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.errors import DispatchError
from tykpy.broker.router.answers import body_of
from tykpy.ipc.bodies.store import BodyStore, StoredBody
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.frame import Kind, Status, pack_frame

WHOLE = Object(hook_name="h", request={"raw_body": b"r" * 30_000, "body": "b" * 20_000}, spec={"a": "b"})
REST = Object(hook_name="h", request={"set_headers": {"X": "1"}, "url": "/new"}, spec={"a": "b"})
DATA = WHOLE.SerializeToString()
RAW_BODY = (DATA.index(b"\x72\xb0"), DATA.index(b"\x72\xb0") + 4 + 30_000)
TEXT = (DATA.index(b"\x22\xa0"), DATA.index(b"\x22\xa0") + 4 + 20_000)


@pytest.fixture
def asked() -> Iterator[StoredBody]:
    store = BodyStore(1 << 20)
    stored = store.put(DATA)
    assert stored is not None
    yield stored
    del stored
    store.close()


def answer(unchanged: object, kind: Kind = Kind.OBJECT) -> Answer:
    return Answer(1, False, pack_frame(kind, unchanged, REST.SerializeToString()), 0)


@pytest.mark.parametrize("unchanged", [(), (RAW_BODY,), (TEXT, RAW_BODY), (RAW_BODY, TEXT)])
def test_unchanged_fields_are_put_back(asked: StoredBody, unchanged: tuple[tuple[int, int], ...]) -> None:
    expected = Object.FromString(REST.SerializeToString())
    for name, place in (("raw_body", RAW_BODY), ("body", TEXT)):
        if place in unchanged:
            setattr(expected.request, name, getattr(WHOLE.request, name))
    answered = body_of(answer(unchanged), Kind.OBJECT, asked)
    assert Object.FromString(answered) == expected
    assert len(answered) == len(expected.SerializeToString())


@pytest.mark.parametrize(
    "unchanged",
    [((0, len(DATA) + 1),), ((-1, 4),), ((5, 5),), ((6, 5),), ((2**63, 2**63 + 1),), (RAW_BODY, (1, 2**40))],
)
def test_references_outside_the_request_are_refused(asked: StoredBody, unchanged: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(DispatchError, match="of a body of") as caught:
        body_of(answer(unchanged), Kind.OBJECT, asked)
    assert caught.value.status is Status.INTERNAL


@pytest.mark.parametrize("unchanged", [((1,),), ((1, 2), (3, 4), (5, 6)), {"a": 1}, "text", ((1.5, 2),)])
def test_malformed_references_are_refused(asked: StoredBody, unchanged: object) -> None:
    frame = pack_frame(Kind.OBJECT, unchanged, b"")
    with pytest.raises(DispatchError, match="does not decode"):
        body_of(Answer(1, False, frame, 0), Kind.OBJECT, asked)


def test_an_answer_without_a_request_gets_one(asked: StoredBody) -> None:
    rest = Object(hook_name="h", spec={"a": "b"})
    frame = pack_frame(Kind.OBJECT, (RAW_BODY,), rest.SerializeToString())
    expected = Object(hook_name="h", spec={"a": "b"}, request={"raw_body": WHOLE.request.raw_body})
    assert Object.FromString(body_of(Answer(1, False, frame, 0), Kind.OBJECT, asked)) == expected


@pytest.mark.parametrize(
    "rest",
    [b"\x12\x00" * 20_000, b"\x7b" + b"\x08\x00" * 1_000 + b"\x7c", b"\x00\x00", b"\x1a\xff\xff\xff\xff\x0f", b"\x12"],
)
def test_an_answer_that_is_no_object_is_refused(asked: StoredBody, rest: bytes) -> None:
    frame = pack_frame(Kind.OBJECT, (RAW_BODY,), rest)
    with pytest.raises(DispatchError, match="no Object"):
        body_of(Answer(1, False, frame, 0), Kind.OBJECT, asked)


def test_only_borrowed_bodies_can_be_referred_to(asked: StoredBody) -> None:
    for kind, body in ((Kind.OBJECT, DATA), (Kind.OBJECT_MAP, asked)):
        with pytest.raises(DispatchError, match="not in the store"):
            body_of(answer((RAW_BODY,), kind), kind, body)
