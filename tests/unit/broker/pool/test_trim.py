"""Memory taken by a burst of big bodies is given back, in the broker and in its workers."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.channels import LocalWorker, local_worker
from tests.support.root import ROOT
from tykpy.broker.pool.trim import trim_memory
from tykpy.ipc.bodies.heap import _glibc

BIG = bytes(700_000)
BURST = 20


@pytest.fixture
def worker() -> Iterator[LocalWorker]:
    with local_worker() as one:
        yield one


def burst(worker: LocalWorker) -> None:
    channel = worker.link.channel
    for seq in range(1, BURST + 1):
        body = channel.bodies.put(BIG)
        assert body is not None
        channel.send(seq, (b"\x93\x01\xc0\xc0", body), 0)
        channel.ring()
        worker.finish(worker.claim())
        (answer,) = channel.receive()
        assert not answer.is_error


def test_a_burst_leaves_nothing_reserved(worker: LocalWorker) -> None:
    channel = worker.link.channel
    burst(worker)
    trim_memory(channel.bodies, [channel])
    assert channel.bodies.reserved > 0, "it was used since the last look"
    trim_memory(channel.bodies, [channel])
    trim_memory(channel.bodies, [channel])
    assert [message.name for message in worker.channel.control.receive()] == ["trim"]
    worker.channel.trim()
    assert channel.bodies.reserved == 0
    assert worker.channel._parts.bulk_out.reserved == 0
    burst(worker)


def test_memory_goes_back_although_a_worker_is_gone(worker: LocalWorker) -> None:
    channel = worker.link.channel
    burst(worker)
    worker.channel.control.close()
    for _ in range(3):
        trim_memory(channel.bodies, [channel])
    assert channel.bodies.reserved == 0


SCRIPT = """
from tykpy.ipc.bodies.heap import give_back, keep_freed
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
keep_freed()
pieces = [bytearray(b"x") * (1 << 20) for _ in range(32)]
del pieces
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(_glibc() is None, reason="not glibc")
def test_the_heap_keeps_what_is_freed_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 24 << 20
