"""A request or answer that there is no memory for is an error of its call; the next ones come through."""

from typing import Any

import pytest

from tests.unit.ipc.channel.ends import channel_pair
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.frame import Kind, Status, pack_frame, unpack_error, unpack_frame

BIG = bytes(40_000)
SMALL = b"small"
NO_DEADLINE = 0


def fail(*_: object) -> Any:
    raise MemoryError


def send(broker: BrokerChannel, seq: int, body: bytes) -> None:
    broker.send(seq, pack_frame(Kind.OBJECT, None, body), NO_DEADLINE)
    broker.ring()


def test_no_memory_to_read_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with channel_pair() as (broker, worker):
        monkeypatch.setattr(worker, "_fetch", fail)
        send(broker, 1, BIG)
        send(broker, 2, SMALL)
        request = worker.claim()
        assert request is not None
        assert (request.seq, unpack_frame(request.payload).body) == (2, SMALL)
        (answer,) = broker.receive()
        assert (answer.seq, answer.is_error) == (1, True)
        status, message = unpack_error(answer.payload)
        assert (status, message) == (Status.INTERNAL, "no memory to read the request: --limit-memory")


def test_no_memory_to_send_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with channel_pair() as (broker, worker):
        monkeypatch.setattr("tykpy.ipc.bodies.announce.OversizeWriter.publish", fail)
        for seq, body in ((1, BIG), (2, SMALL)):
            send(broker, seq, SMALL)
            assert worker.claim() is not None
            worker.answer(0, seq, pack_frame(Kind.OBJECT, None, body), False, 0)
        failed, answered = broker.receive()
        assert (failed.seq, failed.is_error, answered.seq, answered.is_error) == (1, True, 2, False)
        assert unpack_error(failed.payload)[1] == "no memory to send the answer: --limit-memory"
        assert not broker.executing()
