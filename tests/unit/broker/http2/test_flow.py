"""Flow control, both ways."""

from itertools import groupby

from tests.support.peers.http2_peer import Peer, code_of, data, message, settings, window_update
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.http2.frames import ACK, END_STREAM, FrameType
from tykpy.broker.http2.limits import KIB, MIB, Limits
from tykpy.broker.http2.sender import RUN_BYTES

BODY = bytes(range(256)) * (64 * 1024)
"""16 MiB."""


def send_all(peer: Peer, stream_id: int, body: bytes, frame_size: int = 16 * KIB) -> None:
    """Send a request's body within the announced windows; fail if they are never widened enough."""
    stream_room, connection_room = peer.limits.stream_window, peer.limits.connection_window
    peer.send(peer.headers(stream_id))
    at = 0
    while at < len(body):
        size = min(frame_size, len(body) - at, stream_room, connection_room)
        assert size > 0, "the windows were not widened"
        answer = peer.send(data(stream_id, body[at : at + size], END_STREAM if at + size == len(body) else 0))
        at += size
        for frame in answer:
            if frame.kind == FrameType.WINDOW_UPDATE:
                increment = int.from_bytes(frame.payload, "big")
                stream_room += increment if frame.stream_id else 0
                connection_room += 0 if frame.stream_id else increment
        stream_room -= size
        connection_room -= size


def test_a_message_larger_than_both_windows_comes_in() -> None:
    peer = Peer(Limits(stream_window=64 * KIB, connection_window=64 * KIB))
    send_all(peer, 1, message(BODY[:-5]))
    assert peer.echo.dispatched[0].body == BODY[:-5]
    updates = [frame for frame in peer.received if frame.kind == FrameType.WINDOW_UPDATE]
    assert len(updates) < 2 * len(BODY) / (16 * KIB), "updates are batched"


def test_a_message_larger_than_both_windows_goes_out() -> None:
    peer = Peer()
    send_all(peer, 1, message(BODY))
    left = len(message(BODY)) - len(peer.body(1))
    while left:
        answer = peer.send(window_update(1, 64 * KIB), window_update(0, 64 * KIB))
        sizes = [len(frame.payload) for frame in answer if frame.kind == FrameType.DATA]
        assert max(sizes) <= 16 * KIB
        left -= sum(sizes)
    assert peer.body(1) == message(BODY)
    assert peer.trailers(1)["grpc-status"] == "0"
    assert peer.connection.sender.held == 0


def test_the_first_window_is_not_overrun() -> None:
    peer = Peer()
    send_all(peer, 1, message(BODY))
    assert len(peer.body(1)) == 65_535


def test_a_window_of_one_byte() -> None:
    peer = Peer()
    peer.send(settings(initial_window_size=1))
    peer.send(peer.request(1, b"ab"))
    for sent in range(1, 7):
        assert peer.body(1) == message(b"ab")[:sent]
        peer.send(window_update(1, 1))
    assert peer.body(1) == message(b"ab")


def test_a_new_initial_window_changes_open_streams() -> None:
    peer = Peer()
    peer.send(settings(initial_window_size=0))
    peer.send(peer.request(1, b"abc"))
    assert peer.body(1) == b""
    answer = peer.send(settings(initial_window_size=5))
    assert [(frame.kind, frame.flags) for frame in answer] == [(FrameType.SETTINGS, ACK), (FrameType.DATA, 0)]
    peer.send(settings(initial_window_size=2))
    peer.send(window_update(1, 3))
    assert len(peer.body(1)) == 5, "the window was negative, and is 0 now"
    peer.send(window_update(1, 3))
    assert peer.body(1) == message(b"abc")


def test_larger_frames_are_used_where_the_peer_takes_them() -> None:
    peer = Peer()
    peer.send(settings(max_frame_size=1 * MIB, initial_window_size=8 * MIB), window_update(0, 8 * MIB))
    send_all(peer, 1, message(bytes(600 * KIB)))
    (frame,) = [frame for frame in peer.received if frame.kind == FrameType.DATA]
    assert len(frame.payload) == 600 * KIB + 5


def test_large_answers_take_turns() -> None:
    peer = Peer()
    peer.send(settings(initial_window_size=MIB))
    for stream_id in (1, 3):
        send_all(peer, stream_id, message(bytes(400 * KIB)))
    peer.received.clear()
    answer = peer.send(window_update(0, 4 * RUN_BYTES))
    sent = [(frame.stream_id, len(frame.payload)) for frame in answer if frame.kind == FrameType.DATA]
    runs = [(stream_id, sum(size for _, size in frames)) for stream_id, frames in groupby(sent, lambda one: one[0])]
    assert [stream_id for stream_id, _ in runs[:4]] in ([1, 3, 1, 3], [3, 1, 3, 1])
    assert max(size for _, size in runs) == RUN_BYTES


def test_a_small_answer_overtakes_a_large_one() -> None:
    peer = Peer()
    peer.send(window_update(0, MIB))
    send_all(peer, 1, message(bytes(200 * KIB)))
    peer.send(peer.request(3, b"small"))
    assert peer.body(3) == message(b"small")


def test_more_than_the_streams_window_resets_the_stream() -> None:
    peer = Peer(Limits(stream_window=1000))
    answer = peer.send(peer.headers(1), data(1, bytes(1001), 0))
    assert code_of(answer, FrameType.RST_STREAM) == ErrorCode.FLOW_CONTROL_ERROR


def test_more_than_the_connections_window_ends_the_connection() -> None:
    peer = Peer(Limits(connection_window=65_535))
    peer.connection._receive_window = 10
    answer = peer.send(peer.headers(1), data(1, bytes(11), 0))
    assert code_of(answer, FrameType.GOAWAY) == ErrorCode.FLOW_CONTROL_ERROR


def test_a_stream_window_above_the_maximum_resets_the_stream() -> None:
    peer = Peer()
    answer = peer.send(peer.request(1, b"hold:"), window_update(1, 2**31 - 1))
    assert code_of(answer, FrameType.RST_STREAM) == ErrorCode.FLOW_CONTROL_ERROR
    assert len(peer.echo.cancelled) == 1


def test_an_initial_window_must_not_overflow_a_stream() -> None:
    peer = Peer()
    peer.send(peer.request(1, b"hold:"), window_update(1, 2**31 - 1 - 65_535))
    answer = peer.send(settings(initial_window_size=65_536))
    assert code_of(answer, FrameType.GOAWAY) == ErrorCode.FLOW_CONTROL_ERROR


def test_an_answer_that_is_cancelled_while_it_waits_is_dropped() -> None:
    peer = Peer()
    send_all(peer, 1, message(BODY))
    assert peer.connection.sender.held > 0
    peer.send(b"\0\0\4\3\0\0\0\0\1\0\0\0\x08")
    assert peer.connection.sender.held == 0
    assert not peer.connection.sender.waiting


def test_a_full_socket_holds_output_back() -> None:
    peer = Peer()
    peer.connection.sender.paused = True
    peer.send(peer.request(1, b"x"))
    assert peer.body(1) == b""
    peer.connection.sender.paused = False
    peer.take()
    assert peer.body(1) == message(b"x")


def test_a_window_update_by_nothing_resets_the_stream() -> None:
    peer = Peer()
    answer = peer.send(peer.request(1, b"hold:"), window_update(1, 0))
    assert code_of(answer, FrameType.RST_STREAM) == ErrorCode.PROTOCOL_ERROR
