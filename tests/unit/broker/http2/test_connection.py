"""Requests and answers on one connection, and the error for each invalid frame."""

import gc
import weakref

import pytest

from tests.support.peers.http2_peer import (
    Peer,
    code_of,
    data,
    message,
    reset,
    settings,
    window_update,
)
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.http2.frames import ACK, END_HEADERS, END_STREAM, PREFACE, FrameType, pack_frame
from tykpy.broker.http2.limits import Limits


def test_a_call_is_answered_in_three_frames() -> None:
    peer = Peer()
    answer = peer.send(peer.request(1, b"hello"))
    assert [frame.kind for frame in answer] == [FrameType.HEADERS, FrameType.DATA, FrameType.HEADERS]
    assert peer.body(1) == message(b"hello")
    assert peer.trailers(1) == {"grpc-status": "0"}
    assert not peer.connection.streams


def test_the_handshake_exchanges_settings() -> None:
    peer = Peer(handshake=False)
    ours = peer.take()
    assert [frame.kind for frame in ours] == [FrameType.SETTINGS, FrameType.WINDOW_UPDATE]
    assert peer.connection.settings_awaited == 1
    (ack,) = peer.send(PREFACE, settings())
    assert (ack.kind, ack.flags) == (FrameType.SETTINGS, ACK)
    peer.send(pack_frame(FrameType.SETTINGS, ACK, 0))
    assert peer.connection.settings_awaited == 0


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", b"\x16\x03\x01"])
def test_a_wrong_preface_is_refused_at_its_first_wrong_byte(start: bytes) -> None:
    peer = Peer(handshake=False)
    assert code_of(peer.send(start), FrameType.GOAWAY) == ErrorCode.PROTOCOL_ERROR


def test_a_request_in_single_bytes() -> None:
    peer = Peer(handshake=False)
    for byte in PREFACE + settings() + peer.request(1, b"hello"):
        peer.send(bytes((byte,)))
    assert peer.body(1) == message(b"hello")


def test_padding_and_priority_are_removed() -> None:
    peer = Peer()
    block = b"\x04" + (3).to_bytes(4, "big") + b"\x10" + peer.block() + bytes(4)
    padded = b"\x07" + message(b"hello") + bytes(7)
    peer.send(pack_frame(FrameType.HEADERS, END_HEADERS | 0x28, 1, block), data(1, padded, END_STREAM | 0x8))
    assert peer.body(1) == message(b"hello")


def test_a_header_block_in_many_frames() -> None:
    peer = Peer()
    block = peer.block(("key", "v" * 3000))
    parts = [block[at : at + 100] for at in range(0, len(block), 100)]
    peer.send(pack_frame(FrameType.HEADERS, 0, 1, parts[0]))
    for part in parts[1:-1]:
        peer.send(pack_frame(FrameType.CONTINUATION, 0, 1, part))
    peer.send(pack_frame(FrameType.CONTINUATION, END_HEADERS, 1, parts[-1]), data(1, message(b"x")))
    assert peer.body(1) == message(b"x")


def test_trailers_end_a_request() -> None:
    peer = Peer()
    trailers = pack_frame(FrameType.HEADERS, END_HEADERS | END_STREAM, 1, peer.encode([("some", "thing")]))
    peer.send(peer.headers(1), data(1, message(b"x"), 0), trailers)
    assert peer.body(1) == message(b"x")


def test_a_ping_comes_back() -> None:
    peer = Peer()
    (pong,) = peer.send(pack_frame(FrameType.PING, 0, 0, b"12345678"))
    assert (pong.kind, pong.flags, pong.payload) == (FrameType.PING, ACK, b"12345678")


def test_a_reset_stream_is_cancelled() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"hold:"))
    assert peer.send(reset(1)) == []
    assert len(peer.echo.cancelled) == 1
    assert not peer.connection.streams


def test_output_outside_of_receive_wakes_the_owner_once() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"hold:1"), peer.request(3, b"hold:3"))
    wakes = peer.wakes
    peer.echo.release()
    assert peer.wakes == wakes + 1
    peer.take()
    assert [peer.body(1), peer.body(3)] == [message(b"hold:1"), message(b"hold:3")]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (pack_frame(FrameType.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.DATA, 0, 2, b"x"), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.HEADERS, END_HEADERS, 0, b"\x82"), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.HEADERS, 0, 0, b"\x82"), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.HEADERS, END_HEADERS, 2, b"\x82"), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.HEADERS, END_HEADERS | 0x8, 1), ErrorCode.FRAME_SIZE_ERROR),
        (pack_frame(FrameType.HEADERS, END_HEADERS | 0x8, 1, b"\x05\x82"), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.HEADERS, END_HEADERS | 0x20, 1, b"\0\0"), ErrorCode.FRAME_SIZE_ERROR),
        (pack_frame(FrameType.HEADERS, END_HEADERS, 1, b"\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (pack_frame(FrameType.HEADERS, END_HEADERS, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
        (pack_frame(FrameType.HEADERS, END_HEADERS, 1, b"\xbe"), ErrorCode.COMPRESSION_ERROR),
        (pack_frame(FrameType.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.PRIORITY, 0, 1, b"\0\0\0\x01\0"), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.RST_STREAM, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.RST_STREAM, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (pack_frame(FrameType.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (pack_frame(FrameType.SETTINGS, 0, 0, bytes(6 * 33)), ErrorCode.ENHANCE_YOUR_CALM),
        (settings(initial_window_size=2**31), ErrorCode.FLOW_CONTROL_ERROR),
        (settings(max_frame_size=1), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.PUSH_PROMISE, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (pack_frame(FrameType.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (window_update(1, 1), ErrorCode.PROTOCOL_ERROR),
        (pack_frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (pack_frame(FrameType.CONTINUATION, END_HEADERS, 1, b"\x82"), ErrorCode.PROTOCOL_ERROR),
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x00", ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_wrong_frames_end_the_connection_with_their_code(frame: bytes, code: ErrorCode) -> None:
    for pieces in ([frame], [frame[:5], frame[5:]]):
        peer = Peer()
        answer = [found for piece in pieces for found in peer.send(piece)]
        assert code_of(answer, FrameType.GOAWAY) == code
        assert peer.connection.closed
        assert peer.send(peer.request(101, b"x")) == []


@pytest.mark.parametrize(
    ("fields", "extra"),
    [
        ({"method": "CONNECT"}, []),
        ({"path": ""}, []),
        ({}, [("Upper", "x")]),
        ({}, [(":late", "x")]),
        ({}, [("connection", "close")]),
        ({}, [("te", "gzip")]),
        ({}, [("key", "a\nb")]),
        ({}, [("key", " padded")]),
        ({}, [("bad name", "x")]),
        ({}, [("content-length", "x")]),
    ],
)
def test_malformed_requests_are_reset_and_the_connection_goes_on(
    fields: dict[str, str], extra: list[tuple[str, str]]
) -> None:
    """Sent twice, so that the second one uses the cache."""
    peer = Peer()
    peer.send(peer.request(1, b"x"))
    for stream_id in (3, 5):
        block = peer.block(*extra, **fields)
        answer = peer.send(pack_frame(FrameType.HEADERS, END_HEADERS, stream_id, block))
        assert code_of(answer, FrameType.RST_STREAM) == ErrorCode.PROTOCOL_ERROR
    peer.send(peer.request(7, b"after"))
    assert peer.body(7) == message(b"after")


@pytest.mark.parametrize("length", ["4", "6"])
def test_a_body_unlike_its_announced_length_is_reset(length: str) -> None:
    peer = Peer()
    answer = peer.send(peer.headers(1, ("content-length", length)), data(1, message(b"")))
    assert code_of(answer, FrameType.RST_STREAM) == ErrorCode.PROTOCOL_ERROR
    assert not peer.echo.dispatched


def test_frames_after_the_end_of_a_request_are_a_stream_error() -> None:
    for late in (data(1, b"x"), None):
        peer = Peer()
        peer.send(peer.request(1, b"hold:"))
        answer = peer.send(late if late is not None else peer.headers(1, flags=END_HEADERS | END_STREAM))
        assert code_of(answer, FrameType.RST_STREAM) == ErrorCode.STREAM_CLOSED
        assert len(peer.echo.cancelled) == 1


def test_headers_on_a_closed_stream_are_a_connection_error() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"x"))
    assert code_of(peer.send(peer.headers(1)), FrameType.GOAWAY) == ErrorCode.STREAM_CLOSED


def test_late_frames_of_a_stream_that_we_reset_are_ignored() -> None:
    peer = Peer()
    peer.send(peer.headers(1, path="/unknown"))
    assert peer.trailers(1)["grpc-status"] == "12"
    assert peer.send(data(1, bytes(1000), 0), window_update(1, 5), data(1, b"")) == []
    assert not peer.connection.closed


def test_streams_above_the_limit_are_refused() -> None:
    peer = Peer(Limits(max_concurrent_streams=2))
    peer.send(peer.request(1, b"hold:"), peer.request(3, b"hold:"))
    answer = peer.send(peer.request(5, b"x"))
    assert code_of(answer, FrameType.RST_STREAM) == ErrorCode.REFUSED_STREAM
    peer.echo.release()
    peer.take()
    peer.send(peer.request(7, b"x"))
    assert peer.body(7) == message(b"x")


def test_unknown_frames_and_settings_are_ignored() -> None:
    peer = Peer()
    peer.send(pack_frame(0xEE, 0xFF, 7, b"??"), pack_frame(FrameType.SETTINGS, 0, 0, b"\xff\xff\0\0\0\1"))
    peer.send(peer.request(1, b"x"))
    assert peer.body(1) == message(b"x")


def test_draining_answers_calls_already_on_their_way() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"hold:1"))
    peer.connection.drain()
    goaway, ping = peer.take()
    assert goaway.payload[:4] == b"\x7f\xff\xff\xff"
    peer.send(peer.request(3, b"crossed the GOAWAY"))
    assert peer.body(3) == message(b"crossed the GOAWAY")
    (last,) = peer.send(pack_frame(FrameType.PING, ACK, 0, ping.payload))
    assert last.payload[:8] == (3).to_bytes(4, "big") + bytes(4)
    refused = peer.send(peer.request(5, b"late"))
    assert code_of(refused, FrameType.RST_STREAM) == ErrorCode.REFUSED_STREAM
    assert not peer.connection.done
    peer.echo.release()
    peer.take()
    assert peer.body(1) == message(b"hold:1")
    assert peer.connection.done


def test_a_peer_that_sends_goaway_gets_its_answers() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"hold:1"), pack_frame(FrameType.GOAWAY, 0, 0, bytes(8)))
    assert not peer.connection.done
    peer.echo.release()
    peer.take()
    assert peer.body(1) == message(b"hold:1")
    assert peer.connection.done


def test_a_closed_connection_is_freed_without_the_collector() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"x"), peer.request(3, b"hold:"))
    peer.connection.close()
    gone = weakref.ref(peer.connection)
    gc.disable()
    try:
        del peer
        assert gone() is None
    finally:
        gc.enable()
