"""A broker that is told to stop: what its peers had sent before they knew is answered."""

import os
import signal
from pathlib import Path

from broker.http2.frames import ACK, END_STREAM, FrameType, pack_frame
from tests.support.attacker import Attacker
from tests.support.broker import running_broker
from tests.support.http2_peer import Frame
from tyk.proto.coprocess_object_pb2 import Object

FILES = {
    "mine.py": """
from tyk.decorators import Pre

@Pre
def greet(request, session, spec):
    request.add_header("X-Greeting", "hello")
    return request, session
"""
}
CALL = Object(hook_name="greet").SerializeToString()


def ends(stream_id: int, frame: Frame) -> bool:
    return frame.kind == FrameType.HEADERS and frame.stream_id == stream_id and bool(frame.flags & END_STREAM)


def is_drain_ping(frame: Frame) -> bool:
    return frame.kind == FrameType.PING and not frame.flags & ACK


def answer(peer: Attacker, stream_id: int) -> bytes:
    """Call, and read to the end of the answer: its DATA."""
    peer.send(peer.request(stream_id, CALL))
    frames = peer.read_until(lambda frame: ends(stream_id, frame))
    return b"".join(f.payload for f in frames if f.kind == FrameType.DATA and f.stream_id == stream_id)


def test_a_peer_that_has_not_read_yet_that_it_is_to_go_is_answered(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker, Attacker(str(broker.socket)) as peer:
        assert b"X-Greeting" in answer(peer, 1)
        os.kill(broker.pid, signal.SIGTERM)
        (ping,) = filter(is_drain_ping, peer.read_until(is_drain_ping))
        assert b"X-Greeting" in answer(peer, 3)
        peer.send(pack_frame(FrameType.PING, ACK, 0, ping.payload))
        peer.read_to_end()
        assert broker.wait() == 0
