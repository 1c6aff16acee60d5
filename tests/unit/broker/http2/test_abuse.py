"""Hostile peers, and the error code that ends their connection. Time only passes when a test says so."""

from collections.abc import Callable

import pytest
from hpack import Encoder

from tests.support.peers.http2_peer import Peer, code_of, data, message, reset, settings, window_update
from tykpy.broker.arriving import Arriving
from tykpy.broker.http2.connection import _MAX_REMEMBERED_RESETS
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.http2.frames import ACK, END_HEADERS, END_STREAM, MAX_FRAME_SIZE, FrameType, pack_frame
from tykpy.broker.http2.limits import KIB, MIB, Limits

CALM = ErrorCode.ENHANCE_YOUR_CALM
FLOODS: dict[str, bytes] = {
    "PING": pack_frame(FrameType.PING, 0, 0, bytes(8)),
    "SETTINGS": settings(),
    "PRIORITY": pack_frame(FrameType.PRIORITY, 0, 7, bytes(5)),
    "WINDOW_UPDATE": window_update(0, 1),
    "empty DATA": data(1, b"", 0),
    "padding only": data(1, b"\x03" + bytes(3), 0x8),
    "unknown": pack_frame(0xFA, 0, 0),
}


def flood(peer: Peer, make: Callable[[int], bytes], most: int) -> int:
    """Send until the connection is closed; return how many times that took."""
    for count in range(most):
        peer.send(make(count))
        if peer.connection.closed:
            assert code_of(peer.received, FrameType.GOAWAY) == CALM
            return count
    raise AssertionError(f"{most} were taken")


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS.keys())
def test_floods_of_control_frames_end_the_connection(frame: bytes) -> None:
    peer = Peer(Limits(control_burst=500))
    peer.send(peer.headers(1))
    assert flood(peer, lambda _: frame, 1000) >= 40


def test_a_flood_of_goaways_ends_the_connection() -> None:
    peer = Peer(Limits(control_burst=500))
    peer.send(peer.request(1, b"hold:"))
    for _ in range(1000):
        peer.send(pack_frame(FrameType.GOAWAY, 0, 0, bytes(8)))
    fault = peer.connection.fault
    assert fault is not None
    assert fault.code == CALM


def test_the_same_frames_at_a_bearable_rate_are_taken() -> None:
    peer = Peer(Limits(control_burst=500, control_rate=100))
    for _ in range(2000):
        peer.clock.now += 0.01
        peer.send(FLOODS["PING"])
    assert not peer.connection.closed


def test_a_busy_client_may_send_control_frames_with_every_call() -> None:
    """Some libraries widen both windows and ping for every message."""
    peer = Peer(Limits(control_burst=500))
    for number in range(2000):
        stream_id = 2 * number + 1
        extra = FLOODS["PING"] + window_update(0, 10) + window_update(stream_id, 10)
        peer.send(peer.request(stream_id, b"x"), window_update(0, 100), extra)
    assert not peer.connection.closed


def test_a_client_may_widen_windows_for_each_frame_it_gets() -> None:
    """haproxy does this."""
    peer = Peer(Limits(control_burst=100))
    body = message(bytes(MIB))
    peer.send(peer.headers(1))
    answer = []
    for at in range(0, len(body), MAX_FRAME_SIZE):
        part = body[at : at + MAX_FRAME_SIZE]
        answer += peer.send(data(1, part, END_STREAM if at + len(part) == len(body) else 0))
    while sizes := [len(frame.payload) for frame in answer if frame.kind == FrameType.DATA and frame.payload]:
        answer = [
            frame for size in sizes for frame in peer.send(window_update(0, size)) + peer.send(window_update(1, size))
        ]
    assert peer.trailers(1)["grpc-status"] == "0"
    assert not peer.connection.closed


def test_a_client_may_not_widen_a_window_for_each_byte() -> None:
    peer = Peer(Limits(control_burst=500))
    peer.send(settings(initial_window_size=0), peer.request(1, bytes(2_000)))
    assert flood(peer, lambda _: window_update(1, 1), 1_000) >= 400


def test_rapid_reset() -> None:
    peer = Peer(Limits(reset_burst=100))
    taken = flood(peer, lambda n: peer.request(2 * n + 1, b"hold:") + reset(2 * n + 1), 1000)
    assert taken == 100
    assert len(peer.echo.cancelled) == taken + 1, "and the one that was open at the end"
    assert not peer.connection.streams


def test_provoked_rapid_resets_end_the_connection() -> None:
    peer = Peer(Limits(reset_burst=100))
    flood(peer, lambda n: peer.request(2 * n + 1, b"hold:") + window_update(2 * n + 1, 0), 1000)
    assert not peer.connection.streams


def test_data_of_a_stream_that_we_have_reset() -> None:
    """Some frames are on their way when we reset the stream, but not any number."""
    peer = Peer(Limits(control_burst=500))
    peer.send(peer.headers(1), window_update(1, 0))
    assert flood(peer, lambda _: data(1, b"x", 0), 1000) >= 400


def test_remembered_resets_are_bounded() -> None:
    peer = Peer(Limits(reset_burst=10_000))
    for stream_id in range(1, 10_000, 2):
        peer.send(peer.headers(stream_id), window_update(stream_id, 0))
    assert not peer.connection.closed
    assert len(peer.connection._reset_by_us) <= _MAX_REMEMBERED_RESETS


def test_a_burst_of_hang_ups_is_tolerated() -> None:
    """As many as a busy gateway may have, with the default limits."""
    peer = Peer()
    ids = range(1, 2 * peer.limits.max_concurrent_streams, 2)
    peer.send(*(peer.request(stream_id, b"hold:") for stream_id in ids))
    peer.send(*(reset(stream_id) for stream_id in ids))
    assert len(peer.echo.cancelled) == len(ids)
    assert not peer.connection.closed


def test_endless_continuations() -> None:
    peer = Peer()
    peer.send(pack_frame(FrameType.HEADERS, 0, 1, peer.block()))
    assert flood(peer, lambda _: pack_frame(FrameType.CONTINUATION, 0, 1), 1000) < 100


def test_a_header_block_without_bounds() -> None:
    peer = Peer(Limits(max_header_frames=10_000))
    peer.send(pack_frame(FrameType.HEADERS, 0, 1, peer.block()))
    part = pack_frame(FrameType.CONTINUATION, 0, 1, bytes(16 * KIB))
    assert flood(peer, lambda _: part, 1000) <= 2 * 32 // 16


def test_a_header_list_far_above_the_limit_ends_the_connection() -> None:
    peer = Peer(Limits(max_header_list=8 * KIB))
    peer.send(peer.request(1, b"x"))
    fields = peer.encode([(f"key{number}", "") for number in range(3000)])[: 15 * KIB]
    answer = peer.send(pack_frame(FrameType.HEADERS, END_HEADERS, 3, fields))
    assert code_of(answer, FrameType.GOAWAY) == CALM


def test_an_hpack_bomb() -> None:
    """One large table entry, referenced by single bytes, before the peer knows that it must not use a table."""
    peer = Peer(handshake=False)
    peer.take()
    bomb = Encoder().encode([("x", "v" * 4000)]) + b"\xbe" * 12_000
    peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings())
    answer = peer.send(pack_frame(FrameType.HEADERS, END_HEADERS, 1, bomb))
    assert code_of(answer, FrameType.GOAWAY) == CALM


def test_a_header_list_above_the_limit_is_an_error_of_the_call() -> None:
    peer = Peer(Limits(max_header_list=8 * KIB))
    for stream_id in (1, 3):
        peer.send(peer.request(stream_id, b"x", ("key", "v" * 9000)))
        assert peer.trailers(stream_id)["grpc-status"] == "8"
    assert not peer.connection.closed


def test_unfinished_requests_of_one_connection_are_bounded() -> None:
    peer = Peer(Limits(max_message=1 * MIB), arriving=Arriving(2 * MIB))
    for stream_id in (1, 3, 5, 7):
        peer.send(peer.headers(stream_id))
    refused = set[int]()
    part = bytes(16 * KIB)
    for stream_id in (1, 3, 5, 7):
        peer.send(data(stream_id, b"\0" + (1 * MIB - 1).to_bytes(4, "big"), 0))
        for _ in range(60):
            if stream_id in peer.connection.streams:
                peer.send(data(stream_id, part, 0))
    refused = {number for number in (1, 3, 5, 7) if number not in peer.connection.streams}
    assert refused == {5, 7}
    assert peer.trailers(5)["grpc-status"] == "8"
    assert peer.arriving.bytes <= 2 * MIB
    peer.send(reset(1), reset(3))
    assert peer.arriving.bytes == 0


def test_complete_messages_of_unfinished_requests_are_bounded() -> None:
    peer = Peer(Limits(max_message=1 * MIB), arriving=Arriving(2 * MIB))
    whole = message(bytes(1 * MIB))
    parts = [whole[at : at + 16 * KIB] for at in range(0, len(whole), 16 * KIB)]
    for stream_id in (1, 3, 5):
        peer.send(peer.headers(stream_id), *(data(stream_id, part, 0) for part in parts))
    assert set(peer.connection.streams) == {1, 3}
    assert peer.trailers(5)["grpc-status"] == "8"
    assert peer.arriving.bytes == 2 * MIB
    peer.send(data(1, b""), reset(3))
    assert [dispatch.body for dispatch in peer.echo.dispatched] == [bytes(1 * MIB)]
    assert peer.arriving.bytes == 0


def test_unfinished_requests_are_bounded_over_all_connections() -> None:
    arriving = Arriving(limit=2 * MIB)
    peers = [Peer(arriving=arriving) for _ in range(3)]
    begun = b"\0" + (1 * MIB).to_bytes(4, "big") + bytes(8 * KIB)
    more = [bytes(16 * KIB)] * 63
    for peer in peers:
        peer.send(peer.headers(1), data(1, begun, 0), *(data(1, part, 0) for part in more))
    assert [bool(peer.connection.streams) for peer in peers] == [True, True, False]
    assert peers[2].trailers(1)["grpc-status"] == "8"
    assert (arriving.bytes, arriving.refused) == (2 * MIB, 1)
    # A request in one piece needs no room there, and requests that already have room can finish.
    peers[2].send(peers[2].request(3, b"small"))
    assert peers[2].trailers(3)["grpc-status"] == "0"
    peers[0].send(data(1, bytes(8 * KIB)))
    assert len(peers[0].echo.dispatched[0].body) == 1 * MIB
    peers[1].connection.close()
    assert arriving.bytes == 0


def test_unread_answers_are_bounded() -> None:
    peer = Peer(Limits(max_message=1 * MIB, max_output=3 * MIB))
    body = message(bytes(1 * MIB - 5))
    parts = [body[at : at + 16 * KIB] for at in range(0, len(body), 16 * KIB)]
    for stream_id in range(1, 21, 2):
        peer.send(peer.headers(stream_id), *(data(stream_id, part, 0) for part in parts), data(stream_id, b""))
        if peer.connection.closed:
            break
    assert stream_id <= 9
    assert code_of(peer.received, FrameType.GOAWAY) == CALM
    assert peer.connection.sender.held == 0


def test_a_wide_window_does_not_make_us_copy_everything_at_once() -> None:
    peer = Peer()
    peer.send(settings(initial_window_size=2**31 - 1), window_update(0, 2**31 - 65_536))
    body = message(bytes(8 * MIB))
    parts = [body[at : at + 16 * KIB] for at in range(0, len(body), 16 * KIB)]
    peer.send(peer.headers(1), *(data(1, part, 0) for part in parts))
    peer.connection.receive(data(1, b""))
    first = sum(map(len, peer.connection.take_output()))
    assert first < 2 * MIB
    peer.take()
    assert first + len(peer.body(1)) > len(body)


def test_a_fault_ends_the_connection_and_cancels_its_calls() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"hold:"), peer.request(3, b"hold:"))
    peer.send(pack_frame(FrameType.PING, ACK, 3, bytes(8)))
    assert len(peer.echo.cancelled) == 2
    (goaway,) = [frame for frame in peer.received if frame.kind == FrameType.GOAWAY]
    assert goaway.payload[:4] == (3).to_bytes(4, "big")
    assert b"PING" in goaway.payload
