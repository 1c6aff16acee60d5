"""What a call reads through `tyk` is recorded, and a replayed call reads the same."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import msgspec
import pytest

import tyk
from tyk.errors import StoreUnavailableError, StoreValueError
from tyk.gateway import TykGateway, install, restore
from tyk.gateway.backend import READS, MemoryStorage
from tyk.gateway.commands import Command
from tyk.gateway.testing import fake_call, fake_gateway
from tykpy.ipc.frame import Kind, Status, pack_error, pack_frame, unpack_answer, unpack_error
from tykpy.ipc.reads import MAX_READS, CallReads, StoreRead, add_reads, split_reads, unpack_reads
from tykpy.workers.dispatch.reads import RecordedReads, ReplayedReads, with_reads


class Down(MemoryStorage):
    """A storage that fails commands of `tyk.store`."""

    def execute(self, command: Command) -> Any:
        raise StoreUnavailableError("it is down")


@contextmanager
def stored(storage: MemoryStorage, **values: bytes) -> Iterator[None]:
    for key, value in values.items():
        storage.store(key, value, 0)
    previous = install(storage)
    try:
        yield
    finally:
        restore(previous)


def recorded(use: Callable[[], object], storage: MemoryStorage | None = None, **values: bytes) -> tuple[Any, CallReads]:
    """Return what `use` returns, and what it read, after a journey through msgpack and JSON."""
    reads, context = RecordedReads(), Context()
    context.run(READS.set, reads)
    with stored(storage or MemoryStorage(), **values):
        result = context.run(outcome, use)
    packed = unpack_reads(msgspec.msgpack.encode(reads.reads))
    return result, msgspec.convert(msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(packed))), CallReads)


def replayed(use: Callable[[], object], reads: CallReads, **values: bytes) -> Any:
    context = Context()
    context.run(READS.set, ReplayedReads(reads))
    with stored(MemoryStorage(), **values):
        return context.run(outcome, use)


def outcome(use: Callable[[], object]) -> Any:
    try:
        return use()
    except (StoreUnavailableError, StoreValueError) as error:
        return type(error)


USES: list[Callable[[], object]] = [
    lambda: (tyk.time(), tyk.time(), tyk.now()),
    lambda: (tyk.random().random(), tyk.random().choice(range(1000)), tyk.uuid4(), tyk.uuid4()),
    lambda: [tyk.store.get(key) for key in ("text", "missing", "text", "raw")],
    lambda: (TykGateway.get_data("text"), TykGateway.get_data("missing")),
    lambda: tyk.store.get_many(["text", "missing", "n"]),
    lambda: (tyk.store.incr("n"), tyk.store.incr("n", 5), tyk.store.incr("new", ttl=9), tyk.store.get("n")),
    lambda: tyk.store.incr("text"),
    lambda: (tyk.store.set_if_absent("text", "x"), tyk.store.set_if_absent("new", "x"), tyk.store.get("text")),
    lambda: (tyk.store.delete("text"), tyk.store.delete("missing"), tyk.store.get("text")),
    lambda: (tyk.store.delete_many(["missing", "text", "n"]), tyk.store.get_many(["text", "n"])),
    lambda: (tyk.store.expire("text", 9), tyk.store.expire("missing", 9), tyk.store.get("text")),
    lambda: [(tyk.store.set("text", "mine"), tyk.store.get("text")) for _ in "ab"],  # type: ignore[func-returns-value]
    lambda: (tyk.store.set_if_absent("new", "x"), tyk.store.set_many({"a": 1}), tyk.store.get("a")),  # type: ignore[func-returns-value]
    lambda: (TykGateway.store_data("text", "mine"), TykGateway.get_data("text"), tyk.store.get_json("missing", 7)),
]


@pytest.mark.parametrize("use", USES)
def test_a_replayed_call_reads_the_same(use: Callable[[], object]) -> None:
    values = {"text": b"value", "raw": b"\xff\x00", "n": b"41"}
    result, reads = recorded(use, None, **values)
    assert reads.complete
    assert replayed(use, reads) == result
    assert replayed(use, reads, text=b"other", missing=b"there", n=b"7", new=b"1", a=b"2") == result


def test_a_store_that_did_not_work_does_not_work_again() -> None:
    def use() -> object:
        return tyk.store.get("key", b"default"), TykGateway.get_data("key"), outcome(lambda: tyk.store.incr("key"))

    result, reads = recorded(use, Down())
    assert result == (b"default", b"", StoreUnavailableError)
    assert replayed(use, reads, key=b"1") == result


def test_what_others_wrote_meanwhile_is_replayed() -> None:
    storage = MemoryStorage()

    def use(meanwhile: Callable[[], object] = lambda: None) -> object:
        tyk.store.set("key", "mine")
        meanwhile()
        return tyk.store.get("key"), tyk.store.get("key")

    result, reads = recorded(lambda: use(lambda: storage.store("key", b"other", 0)), storage)
    assert result == (b"other", b"other")
    assert replayed(use, reads) == result


def test_changed_code_starts_from_the_recorded_values() -> None:
    _, reads = recorded(lambda: (tyk.store.incr("n"), tyk.store.get("name")), n=b"41", name=b"ann")
    assert replayed(lambda: tyk.store.incr("n", 2), reads) == 43
    assert replayed(lambda: (TykGateway.get_data("n"), TykGateway.get_data("name")), reads) == (b"41", b"ann")

    def overwrites() -> object:
        tyk.store.set("n", 7)
        return tyk.store.get("n"), tyk.store.get("unrecorded")

    assert replayed(overwrites, reads, unrecorded=b"there") == (b"7", b"there")


def test_changed_code_that_reads_more_gets_the_last_time() -> None:
    _, reads = recorded(tyk.time)
    times = replayed(lambda: [tyk.time() for _ in range(3)], reads)
    assert times == reads.times * 3


def test_the_same_random_numbers_come_without_a_seed() -> None:
    assert replayed(tyk.uuid4, CallReads()) == replayed(tyk.uuid4, CallReads())


def test_two_recorded_calls_have_different_random_numbers() -> None:
    assert recorded(tyk.uuid4)[0] != recorded(tyk.uuid4)[0]


@pytest.mark.parametrize("left", [2.5, math.inf])
def test_the_time_left_is_replayed(left: float) -> None:
    def use() -> object:
        with fake_call(time_left=left):
            return tyk.current().time_left, tyk.current().time_left

    result, reads = recorded(use)

    def later() -> object:
        with fake_call(time_left=1000):
            return tyk.current().time_left, tyk.current().time_left

    assert replayed(later, reads) == result


def test_too_much_is_left_out_and_said() -> None:
    large = bytes(MAX_READS // 2)
    _, reads = recorded(lambda: [tyk.store.get(key) for key in "abc"], a=large, b=large, c=b"small")
    assert not reads.complete
    assert [read.key for read in reads.store] == ["a"]
    _, reads = recorded(lambda: [tyk.time() for _ in range(20_000)])
    assert not reads.complete
    assert len(reads.times) < 20_000


def test_a_call_that_is_not_recorded_reads_as_ever() -> None:
    with fake_gateway() as fake:
        before = tyk.time()
        fake.clock.advance(60)
        assert tyk.time() == before + 60
        assert tyk.now().timestamp() == pytest.approx(before + 60)
    assert tyk.uuid4() != tyk.uuid4()
    assert tyk.uuid4().version == 4


READS_OF_ONE = CallReads(times=[1.5], store=[StoreRead("key", 0, b"value")])


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_answer_carries_what_was_read(size: int) -> None:
    answer = pack_frame(Kind.OBJECT, ((1, 2),), bytes(size))
    split, packed = split_reads(add_reads(answer, READS_OF_ONE, 1_000_000))
    assert unpack_answer(split) == (Kind.OBJECT, ((1, 2),), bytes(size))
    assert unpack_reads(packed) == READS_OF_ONE
    failed, packed = split_reads(add_reads(pack_error(Status.HOOK_FAILED, "why"), READS_OF_ONE, 1_000_000))
    assert unpack_error(failed) == (Status.HOOK_FAILED, "why")
    assert unpack_reads(packed) == READS_OF_ONE


def test_an_answer_that_would_be_too_large_goes_alone() -> None:
    answer = pack_frame(Kind.OBJECT, None, bytes(1000))
    assert add_reads(answer, CallReads(store=[StoreRead("key", 0, bytes(1000))]), 1500) is answer


def test_a_call_that_read_nothing_adds_nothing() -> None:
    answer, context = pack_frame(Kind.OBJECT, None, b"body"), Context()
    context.run(READS.set, RecordedReads())
    assert context.run(with_reads, answer, 1_000_000) is answer
    context.run(tyk.time)
    assert unpack_reads(split_reads(context.run(with_reads, answer, 1_000_000))[1]).times


@pytest.mark.parametrize("head", [b"", b"\xc0", b"\x94\x01\xc0\xc4\x01a\x07", b"\xff" * 20])
def test_garbage_has_no_reads(head: bytes) -> None:
    assert split_reads((head, None)) == ((head, None), b"")
