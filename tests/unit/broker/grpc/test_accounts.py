"""Requests that end in unusual ways get one answer each and leave no bytes counted."""

from collections.abc import Callable

import pytest

from tests.support.peers.http2_peer import Peer, data, message, reset, settings, window_update
from tykpy.broker.grpc.calls import MAX_LOCAL_MESSAGE
from tykpy.broker.grpc.head import GrpcHead
from tykpy.broker.grpc.wire import ANSWER
from tykpy.broker.http2.errors import FinishedStreamError
from tykpy.broker.http2.frames import END_STREAM, FrameType
from tykpy.broker.http2.sender import Sender
from tykpy.broker.http2.stream import Stream

CHECK = "/grpc.health.v1.Health/Check"
LIST = "/grpc.health.v1.Health/List"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LIST_SERVICES = message(b"\x3a\x01*")
MALFORMED = message(b"\xff")
BEGUN = b"\0\0\0\x08\0" + bytes(1000)
"""The beginning of a message of 2 KiB."""


def ends(peer: Peer, stream_id: int) -> int:
    """Return how often an answer ended on this stream."""
    found = [frame for frame in peer.received if frame.stream_id == stream_id and frame.flags & END_STREAM]
    return sum(frame.kind in (FrameType.HEADERS, FrameType.DATA) for frame in found)


def test_an_upload_that_expires_is_released_once() -> None:
    peer = Peer()
    begun = message(bytes(40_000))
    for stream_id in (1, 3):
        peer.send(peer.headers(stream_id, ("grpc-timeout", "1n")), data(stream_id, begun[:9_000], 0))
        assert peer.arriving.bytes > 0
        rest = [data(stream_id, begun[at : at + 9_000], 0) for at in range(9_000, len(begun), 9_000)]
        peer.send(*rest, data(stream_id, b""))
        assert peer.trailers(stream_id)["grpc-status"] == "4"
        assert peer.arriving.bytes == 0


@pytest.mark.parametrize("path", [CHECK, LIST, WATCH])
@pytest.mark.parametrize("surplus", [message(b""), BEGUN, message(b"") + BEGUN], ids=["message", "begun", "both"])
@pytest.mark.parametrize("cut", [1, 2000])
def test_a_second_message_fails_a_call_that_takes_one(path: str, surplus: bytes, cut: int) -> None:
    peer = Peer()
    body = message(b"") + surplus
    peer.send(peer.headers(1, path=path), *(data(1, body[at : at + cut], 0) for at in range(0, len(body), cut)))
    peer.send(data(1, b""))
    assert peer.trailers(1)["grpc-status"] == "13"
    assert ends(peer, 1) == 1
    assert peer.body(1) == b""
    assert peer.arriving.bytes == 0


def test_a_unary_call_is_answered_when_its_request_ends() -> None:
    peer = Peer()
    peer.send(peer.headers(1, path=CHECK), data(1, message(b""), 0))
    assert not ends(peer, 1)
    peer.send(data(1, b""))
    assert peer.trailers(1)["grpc-status"] == "0"


def test_an_error_after_answers_is_sent_as_trailers() -> None:
    peer = Peer()
    peer.send(peer.headers(1, path=REFLECTION), data(1, LIST_SERVICES, 0), data(1, MALFORMED + BEGUN, 0))
    assert peer.body(1)
    last = [frame for frame in peer.received if frame.kind == FrameType.HEADERS][-1]
    assert peer.fields(last).keys() == {"grpc-status", "grpc-message"}
    assert (ends(peer, 1), peer.arriving.bytes) == (1, 0)


def test_data_after_a_waiting_answer_is_dropped() -> None:
    peer = Peer()
    peer.send(settings(initial_window_size=0))
    peer.send(peer.headers(1, path=REFLECTION), data(1, LIST_SERVICES + MALFORMED, 0))
    assert ends(peer, 1) == 0
    peer.send(data(1, BEGUN, 0), data(1, LIST_SERVICES, 0))
    assert peer.arriving.bytes == 0
    peer.calls.expire(peer.connection.streams[1])
    peer.send(window_update(1, 65_535))
    assert peer.trailers(1)["grpc-status"] == "3"
    assert (ends(peer, 1), peer.connection.streams) == (1, {})


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION])
def test_a_long_message_to_the_broker_itself_is_refused(path: str) -> None:
    peer = Peer()
    peer.send(peer.headers(1, path=path), data(1, message(bytes(MAX_LOCAL_MESSAGE + 1))))
    assert peer.trailers(1)["grpc-status"] == "8"
    assert f"and may have {MAX_LOCAL_MESSAGE}" in peer.trailers(1)["grpc-message"]
    assert peer.arriving.bytes == 0


@pytest.mark.parametrize("end", [reset(1), data(1, b"")], ids=["reset", "without the rest"])
@pytest.mark.parametrize("path", [CHECK, REFLECTION, "/coprocess.Dispatcher/Dispatch"])
def test_an_abandoned_upload_is_released(path: str, end: bytes) -> None:
    peer = Peer()
    peer.send(peer.headers(1, path=path), data(1, BEGUN, 0))
    assert peer.arriving.bytes > 0
    peer.send(end)
    assert peer.arriving.bytes == 0


@pytest.mark.parametrize("finish", ["answer", "trailers only", "close", "close with DATA waiting", "gone"])
def test_nothing_is_sent_on_a_finished_stream(finish: str) -> None:
    finished: list[Stream] = []
    sender = Sender(lambda: None, finished.append)
    stream = Stream(1, GrpcHead(), 0, 0 if "waiting" in finish else 65_535)
    if finish == "answer":
        ANSWER.send(sender, stream, b"x")
    elif finish == "trailers only":
        sender.headers(stream, b"", end_stream=True)
    elif finish == "gone":
        sender.forget(stream)
    else:
        sender.headers(stream, b"")
        sender.data(stream, b"x")
        sender.close(stream, b"")
    sender.take()
    sends: list[Callable[[], None]] = [
        lambda: ANSWER.send(sender, stream, b"y"),
        lambda: sender.headers(stream, b""),
        lambda: sender.data(stream, b"y"),
        lambda: sender.close(stream, b""),
    ]
    for send in sends:
        with pytest.raises(FinishedStreamError, match="stream 1 is answered or gone"):
            send()
    assert sender.take() == []
    assert len(finished) <= 1
