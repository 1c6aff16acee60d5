"""A stopping broker answers what its peers had sent before they knew."""

import concurrent.futures
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.certificates import TlsFiles
from tests.support.hooks import SOURCE, Gate
from tests.support.peers.attacker import Attacker
from tests.support.peers.http2_peer import Frame
from tests.support.peers.redis_server import free_port
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.errors import RpcError
from tykpy.broker.http2.frames import ACK, END_STREAM, FrameType, pack_frame
from tykpy.client.grpc import GrpcCallError

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
    """Call, and return the DATA of the answer."""
    peer.send(peer.request(stream_id, CALL))
    frames = peer.read_until(lambda frame: ends(stream_id, frame))
    return b"".join(f.payload for f in frames if f.kind == FrameType.DATA and f.stream_id == stream_id)


def test_calls_sent_before_the_goodbye_was_read_are_answered(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker, Attacker(str(broker.socket)) as peer:
        assert b"X-Greeting" in answer(peer, 1)
        os.kill(broker.pid, signal.SIGTERM)
        (ping,) = filter(is_drain_ping, peer.read_until(is_drain_ping))
        assert b"X-Greeting" in answer(peer, 3)
        peer.send(pack_frame(FrameType.PING, ACK, 0, ping.payload))
        peer.read_to_end()
        assert broker.wait() == 0


ENDS_LATE = """
import threading
threading.Thread(target=threading.Event().wait).start()
"""


def test_a_broker_that_ends_leaves_the_next_ones_sockets(tmp_path: Path) -> None:
    """Its worker has a thread that does not end, so the broker's end takes the workers' whole grace period."""
    (tmp_path / "next").mkdir()
    with running_broker(tmp_path, files={**FILES, "late.py": ENDS_LATE}) as broker:
        successor = RunningBroker(tmp_path / "next", "--runtime-dir", str(broker.runtime))
        successor.socket = broker.socket
        successor.add_file("mine.py", FILES["mine.py"])
        os.kill(broker.pid, signal.SIGTERM)
        wait_until(lambda: refuses(broker.runtime / "admin.sock"), lambda: broker.log)
        with successor:
            assert broker.wait() == 0
            assert successor.call("greet").request.set_headers["X-Greeting"] == "hello"
            assert (broker.runtime / "admin.sock").exists()


def refuses(path: Path) -> bool:
    """Say whether connections are refused."""
    with socket.socket(socket.AF_UNIX) as peer:
        return peer.connect_ex(str(path)) != 0


def test_new_tcp_connections_are_refused_unix_ones_get_goaway(tmp_path: Path) -> None:
    """A refused proxy calls another broker; a refused gateway would wait up to 120 s before it dials again."""
    gate, files = Gate(tmp_path), TlsFiles(tmp_path)
    tcp = free_port()
    broker = RunningBroker(tmp_path, "--grace", "60", "--listen", f"tcp://127.0.0.1:{tcp}", *files.flags)
    broker.add_flags("--listen", broker.address)
    broker.add_file("hooks.py", SOURCE)
    with broker, concurrent.futures.ThreadPoolExecutor(1) as callers:
        running = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        gate.wait_entered()
        for port in (tcp, files.port):
            socket.create_connection(("127.0.0.1", port)).close()
        os.kill(broker.pid, signal.SIGTERM)
        broker.wait_for_status(lambda text: "STOPPING=1" in text)
        for port in (tcp, files.port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        with pytest.raises(GrpcCallError, match="the broker is shutting down"):
            broker.call("add_header", bundle="hooks")
        with broker.admin() as client, pytest.raises(RpcError, match="the broker is shutting down"):
            client.call("reload")
        gate.open()
        assert running.result()
        assert broker.wait() == 0
        assert "Traceback" not in broker.log
