"""A body left in the broker's store changes no answer."""

import asyncio
import contextlib
import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from google.protobuf.message import DecodeError

from tests.support.bundles import Served, subject, write_files
from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest
from tykpy.broker.protowire import pack_bytes
from tykpy.broker.router.answers import body_of
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.hook import Hook
from tykpy.ipc.bodies.store import BodyReader, BodyStore
from tykpy.ipc.channel.messages import Answer
from tykpy.ipc.frame import Kind, Packed, pack_frame, unpack_answer
from tykpy.workers.dispatch.sampled_checks import FIRST_CALLS
from tykpy.workers.objects.borrowed import LARGE_FIELD, BorrowedSubject

HEAD = msgpack.packb([Kind.OBJECT, None, None])
HOOKS = """
    import copy, pickle
    from tyk.decorators import Pre
    from tyk.request import TykCoProcessRequest

    @Pre
    def headers(request, session, spec):
        request.add_header("X-Host", request.get_header("host"))
        request.delete_header("X-One")
        request.add_param("c", "3")
        request.delete_param("a")
        return request, session

    @Pre
    async def asynchronous(request, session, spec):
        return headers(request, session, spec)

    @Pre
    def with_session(request, session, metadata, spec):
        session.rate = 5
        metadata["a"] = "b"
        return None, session, metadata

    @Pre
    def measures(request, session, spec):
        request.add_header("X-Size", str(len(request.object.raw_body) + len(request.object.body)))
        return request, session

    @Pre
    def changes(request, session, spec):
        request.add_header("X-Before", "1")
        request.object.raw_body = request.object.raw_body[:10]
        return request, session

    @Pre
    def empties(request, session, spec):
        request.object.ClearField("raw_body")
        return request, session

    @Pre
    def replaces(request, session, spec):
        message = type(request.object)()
        message.raw_body = b"new"
        request.object = message
        return request, session

    @Pre
    def returns_another(request, session, spec):
        return TykCoProcessRequest(type(request.object)(url="/other")), session

    @Pre
    def returns_a_copy(request, session, spec):
        found = copy.copy(request)
        found.add_header("X-Copy", "1")
        return found, session

    kept = []

    @Pre
    def keeps(request, session, spec):
        kept.append(request)
        return request, session

    @Pre(on_error="continue")
    def continues(request, session, spec):
        request.add_header("X-Lost", "1")
        raise ValueError

    @Pre(on_error="continue")
    def could_continue(request, session, spec):
        request.add_header("X-Done", "1")
        return request, session
"""
LEAVES = ("headers", "asynchronous", "with_session")
READS = ("measures", "changes", "empties", "replaces", "returns_another", "returns_a_copy", "keeps")
CONTINUES = ("continues", "could_continue")
BODIES: dict[str, dict[str, Any]] = {
    "binary": {"raw_body": os.urandom(100_000)},
    "text": {"body": "ä" * 50_000, "raw_body": ("ä" * 50_000).encode()},
    "text-only": {"body": "x" * (LARGE_FIELD + 1)},
    "one-small": {"body": "x" * 100, "raw_body": bytes(LARGE_FIELD + 1)},
}


class Lender:
    """A store, and a broker's part for a body in it and its answer."""

    def __init__(self, dispatcher: Any) -> None:
        self._store = BodyStore(4 << 20)
        self._reader = BodyReader(os.dup(self._store.readable))
        self._dispatcher = dispatcher

    def run(self, data: bytes, max_answer: int = 1 << 24) -> tuple[Packed, bytes]:
        """Return the answer frame, and the bytes that the broker makes of it."""
        stored = self._store.put(data)
        assert stored is not None
        lent = self._reader.borrow(stored.offset, stored.size, max_answer)
        invocation = self._dispatcher.prepare((HEAD, None), lent)
        frame = asyncio.run(invocation.run_async()) if invocation.is_async else invocation.run()
        lent.give_back()
        return frame, body_of(Answer(1, False, frame, 0), Kind.OBJECT, stored)

    def decode(self, data: bytes) -> BorrowedSubject | None:
        """Decode an object as a worker does. Its large fields must be read before the next call."""
        stored = self._store.put(data)
        assert stored is not None
        self._last = stored
        return BorrowedSubject.decode(self._reader.borrow(stored.offset, stored.size, 1 << 24))

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._store.close()


@pytest.fixture
def bundles(tmp_path: Path) -> Iterator[Served]:
    made = Served(write_files(tmp_path / "bundles", {"foo.py": HOOKS}), tmp_path / "unpacked")
    for hook in hooks_of(made).values():
        hook.unwatched_calls = sys.maxsize
    yield made
    made.close()


def hooks_of(bundles: Served) -> dict[str, Hook]:
    (bundle,) = bundles.store.loaded()
    (part,) = bundle.parts
    return part.hooks


@pytest.fixture
def lender(bundles: Served) -> Iterator[Lender]:
    made = Lender(bundles.dispatcher)
    yield made
    made.close()


def plain(bundles: Served, data: bytes) -> Object:
    """Return what the hook makes of the same object sent whole."""
    return Object.FromString(bundles.frame(pack_frame(Kind.OBJECT, None, data)).body)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("hook", [*LEAVES, *READS, *CONTINUES])
def test_the_answer_is_the_same_as_for_a_whole_object(bundles: Served, lender: Lender, hook: str, body: str) -> None:
    data = subject(hook, request=BODIES[body], session={"rate": 1.0}).SerializeToString()
    frame, answer = lender.run(data)
    assert Object.FromString(answer) == plain(bundles, data)
    _, kept, encoded = unpack_answer(frame)
    assert (kept is not None) == (hook in LEAVES)
    if kept is not None:
        assert len(encoded) < 1000


def test_a_sampled_call_loads_the_body(tmp_path: Path) -> None:
    made = Served(write_files(tmp_path / "bundles", {"foo.py": HOOKS}), tmp_path / "unpacked")
    lender = Lender(made.dispatcher)
    data = subject("headers", request=BODIES["binary"]).SerializeToString()
    looked_at = [unpack_answer(lender.run(data)[0])[1] is None for _ in range(FIRST_CALLS + 3)]
    assert looked_at == [True] * FIRST_CALLS + [False] * 3
    lender.close()
    made.close()


def test_a_chain_loads_the_body(bundles: Served, lender: Lender) -> None:
    for hook in ("changes", "continues", "empties", "replaces", "returns_another"):
        del hooks_of(bundles)[hook]
    data = subject("*", request=BODIES["text"]).SerializeToString()
    frame, answer = lender.run(data)
    assert unpack_answer(frame)[1] is None
    assert Object.FromString(answer) == plain(bundles, data)
    assert "X-Size" in Object.FromString(answer).request.set_headers


def test_an_unknown_hook_is_not_found(lender: Lender) -> None:
    with pytest.raises(WorkerError, match="nothing"):
        lender.run(subject("nothing", request=BODIES["binary"]).SerializeToString())


def test_a_stored_request_has_its_body_for_ever(bundles: Served, lender: Lender) -> None:
    data = subject("keeps", request={"raw_body": b"1" * 50_000}).SerializeToString()
    lender.run(data)
    lender.run(subject("headers", request={"raw_body": b"2" * 50_000}).SerializeToString())
    (request,) = hooks_of(bundles)["keeps"].function.__globals__["kept"]
    assert request.object.raw_body == b"1" * 50_000


def test_an_answer_that_may_be_too_large_is_sent_whole(bundles: Served, lender: Lender) -> None:
    data = subject("headers", request=BODIES["binary"]).SerializeToString()
    frame, answer = lender.run(data, max_answer=len(data))
    assert unpack_answer(frame)[1] is None
    assert Object.FromString(answer) == plain(bundles, data)


BIG = pack_bytes(14, b"x" * 20_000)
UNUSUAL = {
    "small": subject("headers").SerializeToString(),
    "two-requests": pack_bytes(3, BIG) + pack_bytes(3, pack_bytes(5, b"/url")),
    "two-bodies": pack_bytes(3, BIG + BIG),
    "a-small-one-behind": pack_bytes(3, BIG + pack_bytes(14, b"y")),
    "a-small-one-before": pack_bytes(3, pack_bytes(14, b"y") + BIG),
    "name-behind": pack_bytes(3, BIG) + pack_bytes(2, b"headers"),
    "spec-before": pack_bytes(6, pack_bytes(1, b"a") + pack_bytes(2, b"b")) + pack_bytes(3, BIG),
    "unknown-field": pack_bytes(3, pack_bytes(15, b"?") + BIG),
    "number-in-request": pack_bytes(3, b"\x08\x01" + BIG),
    "much-beside": pack_bytes(3, BIG) + pack_bytes(4, pack_bytes(20, b"x" * 70_000)),
    "many-fields": pack_bytes(3, pack_bytes(3, b"x") * 2000 + BIG),
    "hook-type-of-many-bytes": b"\x08\x81\x00" + pack_bytes(3, BIG),
    "much-before": pack_bytes(3, b"".join(pack_bytes(3, b"x" * 900) for _ in range(20)) + BIG + pack_bytes(5, b"/")),
    "nothing": pack_bytes(3, b"") + b"\x12" + b"\x00" * 20_000,
    "cut-off": pack_bytes(3, BIG)[:-5],
    "no-end-of-length": b"\x1a\xff\xff\xff\xff\xff\xff" + BIG,
    "invalid-beside": pack_bytes(3, BIG) + b"\xff\xff",
    "invalid-name": pack_bytes(2, b"\xff") + pack_bytes(3, BIG),
}

USUAL = {"name-behind", "much-before"}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_objects_are_decoded_as_by_protobuf(lender: Lender, name: str) -> None:
    data = UNUSUAL[name]
    try:
        expected = Object.FromString(data)
    except DecodeError:
        with contextlib.suppress(DecodeError):
            assert lender.decode(data) is None
        return
    found = lender.decode(data)
    assert (found is not None) == (name in USUAL)
    if found is not None:
        _ = found.request().object
        expected.request.return_overrides.SetInParent()
        assert found.message == expected


def test_a_body_is_loaded_when_object_is_used(lender: Lender) -> None:
    found = lender.decode(subject("headers", request=BODIES["text"]).SerializeToString())
    assert found is not None
    request = found.request()
    request.add_header("X-Two", "2")
    assert not request.is_loaded
    assert not found.message.request.raw_body
    assert request.object.raw_body == BODIES["text"]["raw_body"]
    assert request.object.body == BODIES["text"]["body"]
    assert request.is_loaded
    assert request.object is found.message.request
    assert dict(request.object.set_headers) == {"X-Two": "2"}


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_request_is_an_ordinary_one(lender: Lender, make: Any) -> None:
    found = lender.decode(subject("headers", request=BODIES["binary"]).SerializeToString())
    assert found is not None
    copied = make(found.request())
    assert type(copied) is TykCoProcessRequest
    assert copied.object.raw_body == BODIES["binary"]["raw_body"]


def test_a_body_that_is_gone_is_an_error_every_time(lender: Lender) -> None:
    found = lender.decode(subject("headers", request=BODIES["binary"]).SerializeToString())
    assert found is not None
    request = found.request()
    found._body.give_back()
    for _ in range(2):
        with pytest.raises(LookupError, match="it is gone"):
            request.object.SetInParent()
    assert request.get_header("Host") == "example.com"
