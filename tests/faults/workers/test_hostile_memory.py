"""Bulk memory and spills are hostile input to the broker: where a body lies, how long it is, and what is there when.

A worker can write to its memory at any time, give its pages back, and announce whatever it likes. The broker copies a
body once and looks at nothing but the copy; the memory's size is sealed, so that no read of it can fail.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import RunningBroker
from tests.support.peers.neighbour import Footprint, Neighbour
from tests.support.vandals import PRELUDE, broker_with_vandals, check_costs_itself
from tykpy.broker.http2.limits import MIB
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import CallDescription, build_object

SIZE: Final = 1_000_000
"""Bytes of a body that these hooks announce."""
VANDALS: Final = (
    PRELUDE
    + f"\nSIZE = {SIZE}\n"
    + '''
segment = pkgutil.resolve_name("tykpy.ipc.ring.segment")
frame = pkgutil.resolve_name("tykpy.ipc.frame")
HEAD = frame._pack((frame.Kind.OBJECT, None, None))

def announce(size, offset, head=HEAD):
    push(layout.RecordType.SPILL_RESP, layout.SPILL_PLACE.pack(size, offset) + head)

def bulk():
    return find()[0]._parts.bulk_out

@Pre
def outside(request, session, spec):
    announce(SIZE, 1 << 40)

@Pre
def beyond_the_end(request, session, spec):
    announce(SIZE, bulk()._capacity - SIZE + 1)

@Pre
def sum_that_overflows(request, session, spec):
    announce(SIZE, layout.OWN_MEMORY - 1)

@Pre
def longer_than_a_message(request, session, spec):
    announce(101 << 20, 0)

@Pre
def endless(request, session, spec):
    announce((1 << 64) - 1, 0)

def send_memory(note, size, sealed_at=None):
    """Memory of so many bytes; the number that the note says is announced."""
    channel, _ = find()
    writable, readable = segment.create_memory()
    os.ftruncate(writable, size)
    socket.send_fds(channel._parts.spills._socket, [struct.pack("<QQ", *note)], [readable])
    return writable

@Pre
def memory_that_was_shrunk(request, session, spec):
    os.ftruncate(send_memory((find()[1], SIZE), SIZE), SIZE - 1)
    announce(SIZE, layout.OWN_MEMORY)

@Pre
def memory_of_another_call(request, session, spec):
    send_memory((find()[1] + 1, SIZE), SIZE)
    announce(SIZE, layout.OWN_MEMORY)

@Pre
def flood_of_memory(request, session, spec):
    find()[0]._parts.spills._socket.setblocking(False)
    try:
        while True:
            os.close(send_memory((0, SIZE), SIZE))
    except OSError:  # the socket is full, or the kernel takes no more descriptors
        announce(SIZE, layout.OWN_MEMORY)

@Pre
def a_descriptor_that_waits(request, session, spec):
    channel, seq = find()
    reader, _ = os.pipe()
    socket.send_fds(channel._parts.spills._socket, [struct.pack("<QQ", seq, SIZE)], [reader])
    announce(SIZE, layout.OWN_MEMORY)

@Pre
def ring_without_pages(request, session, spec):
    channel, _ = find()
    channel._parts.outbound.memory.madvise(mmap.MADV_REMOVE)
    channel._ring(1)
    wait_for_the_end()

@Pre
def lists_on_the_control_socket(request, session, spec):
    count = (4 << 20) - 64
    lists = b"\\x92\\xa5hooks\\x81\\xa7bundles\\xdd" + struct.pack(">I", count) + b"\\x90" * count
    find()[0].control._socket.sendall(struct.pack("<I", len(lists)) + lists)
    wait_for_the_end()

def answer(channel, seq, payload):
    """Publish it as this call's, and let the worker answer nothing more."""
    channel.answer(0, seq, payload, False, 0)
    channel.answer = lambda *ignored: channel.__dict__.pop("answer")

@Pre
def lists_for_an_answer(request, session, spec):
    count = (15 << 20)
    lists = b"\\x93\\x01\\xc0\\xdd" + struct.pack(">I", count) + b"\\x90" * count
    answer(*find(), (lists, None))
    return request, session

@Pre
def keeps_what_is_not_there(request, session, spec):
    answer(*find(), frame.pack_frame(frame.Kind.OBJECT, ((0, 1 << 40),), b""))
    return request, session

@Pre
def keeps_what_was_not_lent(request, session, spec):
    answer(*find(), frame.pack_frame(frame.Kind.OBJECT, ((0, 10),), b""))
    return request, session

def body_at(offset):
    channel, seq = find()
    channel._push(layout.RecordType.SPILL_RESP, seq, 0, layout.SPILL_PLACE.pack(SIZE, offset) + HEAD)
    channel._ring(1)
    channel.answer = lambda *ignored: channel.__dict__.pop("answer")

@Pre
def pages_that_were_given_back(request, session, spec):
    memory = bulk()._memory
    memory[:SIZE] = b"x" * SIZE
    memory.madvise(mmap.MADV_REMOVE)
    body_at(0)
    return request, session

@Pre
def pages_that_never_were(request, session, spec):
    body_at(bulk()._capacity - SIZE)
    return request, session

writing = []

def write_for_ever(memory):
    texts = [letter * SIZE for letter in (b"x", b"y")]
    while True:
        for text in texts:
            memory[:SIZE] = text
        memory.madvise(mmap.MADV_REMOVE)

@Pre
def memory_that_changes(request, session, spec):
    if not writing:
        writing.append(threading.Thread(target=write_for_ever, args=(bulk()._memory,), daemon=True))
        writing[0].start()
    body_at(0)
    return request, session

@Pre
def all_that_there_is(request, session, spec):
    """Take all of bulk memory, and try to have more."""
    memory = bulk()
    os.posix_fallocate(memory._descriptor, 0, memory._capacity)
    for size in (0, memory._capacity + 1):
        try:
            os.ftruncate(memory._descriptor, size)
        except PermissionError:
            request.add_header(f"X-Refused-{size}", "yes")
    try:
        os.posix_fallocate(memory._descriptor, memory._capacity, 1)
    except PermissionError:
        request.add_header("X-Refused-More", "yes")
    return request, session

@Pre
def every_mapping_shrunk(request, session, spec):
    """Rings have no descriptor any more; who may (root) opens what is mapped."""
    for name in os.listdir("/proc/self/map_files"):
        path = f"/proc/self/map_files/{name}"
        try:
            if "memfd:tykpy" in os.readlink(path):
                with open(path, "r+b", buffering=0) as file:
                    file.truncate(0)
                request.add_header("X-Shrunk", "yes")
        except PermissionError:
            pass
    return request, session
'''
)
REASONS: Final = {
    "outside": "a body outside of bulk memory",
    "beyond_the_end": "a body outside of bulk memory",
    "sum_that_overflows": "a body outside of bulk memory",
    "longer_than_a_message": "an oversize spill",
    "endless": "an oversize spill",
    "memory_that_was_shrunk": "a spill that is not what was announced",
    "memory_of_another_call": "a spill that was not announced",
    "flood_of_memory": "a spill that was not announced",
    "a_descriptor_that_waits": "a spill that is not what was announced",
    "ring_without_pages": "cannot be:",
    "lists_on_the_control_socket": "on its control socket",
}
MOST_TAKEN: Final = 64 * MIB
"""The largest message, and what is made of it on the way to a caller; a message of lists would be a gibibyte."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with broker_with_vandals(tmp_path, VANDALS) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Run one broker for hooks whose workers are replaced."""
    with broker_with_vandals(tmp_path_factory.mktemp("broker"), VANDALS) as running:
        yield running


def call_raw(broker: RunningBroker, hook: str, body: bytes = b"") -> bytes:
    """Return the answer's bytes, whatever they are."""
    obj = build_object(CallDescription(hook, bundle="vandals", body=body))
    with GrpcClient(broker.address) as client:
        return client.call("/coprocess.Dispatcher/Dispatch", obj.SerializeToString(), timeout=30)


@pytest.mark.parametrize("hook", REASONS)
def test_impossible_places_of_bodies_cost_their_worker(shared: RunningBroker, hook: str) -> None:
    before = check_costs_itself(shared, lambda: call_raw(shared, hook), REASONS[hook])
    assert before.peak_grown() <= MOST_TAKEN


def test_an_answer_that_would_take_a_gibibyte_costs_its_call(broker: RunningBroker) -> None:
    before = Footprint(broker)
    with Neighbour(broker) as neighbour:
        with pytest.raises(GrpcCallError, match="does not decode") as caught:
            call_raw(broker, "lists_for_an_answer")
        assert caught.value.code.name == "INTERNAL"
        neighbour.wait_answered()
    assert before.peak_grown() <= MOST_TAKEN
    assert broker.status()["restarts"] == 0


@pytest.mark.parametrize(
    ("hook", "body", "why"),
    [("keeps_what_is_not_there", b"\xff" * SIZE, "of a body of"), ("keeps_what_was_not_lent", b"", "not in the store")],
)
def test_an_answer_that_refers_to_nothing_costs_its_call(
    broker: RunningBroker, hook: str, body: bytes, why: str
) -> None:
    with Neighbour(broker) as neighbour:
        with pytest.raises(GrpcCallError, match=why) as caught:
            call_raw(broker, hook, body)
        assert caught.value.code.name == "INTERNAL"
        neighbour.wait_answered()
    assert broker.status()["restarts"] == 0


@pytest.mark.parametrize("hook", ["pages_that_were_given_back", "pages_that_never_were"])
def test_memory_without_pages_is_zeros(broker: RunningBroker, hook: str) -> None:
    with Neighbour(broker) as neighbour:
        assert call_raw(broker, hook) == bytes(SIZE)
        neighbour.wait_answered()
    assert broker.status()["restarts"] == 0


def test_changing_memory_affects_only_its_own_answer(broker: RunningBroker) -> None:
    with Neighbour(broker) as neighbour:
        for _ in range(30):
            answer = call_raw(broker, "memory_that_changes")
            assert len(answer) == SIZE
            assert not answer.strip(b"xy\0")
        neighbour.wait_answered()
    assert broker.status()["restarts"] == 0


def test_a_worker_s_memory_neither_grows_nor_shrinks(broker: RunningBroker) -> None:
    with Neighbour(broker) as neighbour:
        headers = broker.call("all_that_there_is", bundle="vandals").request.set_headers
        assert [name for name in headers if name.startswith("X-Refused")] == [*headers]
        assert len(headers) == 3
        headers = broker.call("every_mapping_shrunk", bundle="vandals").request.set_headers
        assert "X-Shrunk" not in headers
        neighbour.wait_answered()
    assert broker.status()["restarts"] == 0
