"""Peers that take their time: half handshakes, bytes one by one, windows of nothing. Real sockets, and short limits.

The limits of `broker/http2/limits.py` are a second here, but where slowness is to be borne. Each slow peer is sent
away for the right reason, and another connection's calls succeed meanwhile.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import wait_until
from tests.support.peers.attacker import HELLO, Attacker
from tests.support.peers.grpc_server import EchoServer
from tests.support.peers.http2_peer import PATH, code_of, data, message, settings, window_update
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.http2.frames import PREFACE, FrameType, pack_frame
from tykpy.broker.http2.limits import Limits
from tykpy.client.grpc import GrpcClient

LIMITS = Limits(handshake_timeout=1.0, request_timeout=1.0, write_timeout=1.0)
INTERVAL = 0.05


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EchoServer]:
    monkeypatch.setattr("tykpy.broker.connections.SWEEP_INTERVAL", INTERVAL)
    with EchoServer(f"unix://{tmp_path / 's'}", LIMITS) as running:
        yield running


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[EchoServer]:
    with EchoServer(f"unix://{tmp_path / 's'}") as running:
        yield running


def connect(server: EchoServer, hello: bytes = HELLO) -> Attacker:
    return Attacker(server.address.removeprefix("unix://"), hello)


def check_others(server: EchoServer) -> None:
    with GrpcClient(server.address) as client:
        for number in range(20):
            assert client.call(PATH, b"%d" % number, timeout=30) == b"%d" % number


HALF_HANDSHAKES = {
    "nothing": b"",
    "half a preface": PREFACE[:10],
    "no SETTINGS": PREFACE,
    "half of SETTINGS": PREFACE + settings(initial_window_size=1)[:-1],
    "no acknowledgement": PREFACE + settings(),
}


@pytest.mark.parametrize("hello", HALF_HANDSHAKES.values(), ids=HALF_HANDSHAKES.keys())
def test_half_a_handshake(server: EchoServer, hello: bytes) -> None:
    with connect(server, hello) as slow:
        check_others(server)
        assert code_of(slow.read_to_end(), FrameType.GOAWAY) == ErrorCode.SETTINGS_TIMEOUT


HALF_FRAMES = {
    "frame": pack_frame(FrameType.PING, 0, 0, bytes(8))[:-1],
    "header block": pack_frame(FrameType.HEADERS, 0, 1, b"\x83"),
    "CONTINUATION": pack_frame(FrameType.HEADERS, 0, 1, b"\x83") + pack_frame(FrameType.CONTINUATION, 0, 1, b"\x86"),
}


@pytest.mark.parametrize("half", HALF_FRAMES.values(), ids=HALF_FRAMES.keys())
def test_half_a_frame(server: EchoServer, half: bytes) -> None:
    with connect(server) as slow:
        slow.send(half)
        check_others(server)
        assert code_of(slow.read_to_end(), FrameType.GOAWAY) == ErrorCode.ENHANCE_YOUR_CALM


def test_a_request_that_never_ends(server: EchoServer) -> None:
    with connect(server) as slow:
        slow.send(slow.headers(1), data(1, message(bytes(100))[:50], 0))
        check_others(server)
        server.wait_until(lambda: not any(protocol._connection.streams for protocol in server.grpc.connections.open))
        slow.send(pack_frame(FrameType.GOAWAY, 0, 0, bytes(8)))
        frames = slow.read_to_end()
        assert any(b"grpc-status\x014" in frame.payload for frame in frames if frame.stream_id == 1)


def test_a_request_that_comes_in_single_bytes_for_ever(server: EchoServer) -> None:
    with connect(server) as slow:
        slow.send(slow.headers(1), data(1, message(bytes(100_000))[:5], 0))

        def is_over() -> bool:
            slow.send(data(1, b"x", 0))
            return not any(protocol._connection.streams for protocol in server.grpc.connections.open)

        wait_until(lambda: bool(server.run(is_over)), lambda: "the end of the request")
        check_others(server)
        slow.send(pack_frame(FrameType.GOAWAY, 0, 0, bytes(8)))
        frames = slow.read_to_end()
        assert any(b"grpc-status\x014" in frame.payload for frame in frames if frame.stream_id == 1)


def test_a_request_in_single_bytes_is_answered(patient: EchoServer) -> None:
    with connect(patient, b"") as slow:
        for byte in HELLO + slow.request(1, b"hello") + pack_frame(FrameType.GOAWAY, 0, 0, bytes(8)):
            slow.send(bytes((byte,)))
        frames = slow.read_to_end()
        assert b"".join(frame.payload for frame in frames if frame.kind == FrameType.DATA) == message(b"hello")


@pytest.mark.parametrize("window", [0, 1])
def test_windows_that_do_not_open(server: EchoServer, window: int) -> None:
    with connect(server) as slow:
        slow.send(settings(initial_window_size=window))
        slow.send(*(slow.request(stream_id, bytes(1000)) for stream_id in range(1, 201, 2)))
        check_others(server)
        frames = slow.read_to_end()
        sizes = [len(frame.payload) for frame in frames if frame.kind == FrameType.DATA]
        assert set(sizes) == ({window} if window else set())
        assert len(sizes) <= 100
    server.wait_until(lambda: len(server.grpc.connections) == 0)


def test_windows_that_open_by_one(patient: EchoServer) -> None:
    """Slow but steady: the answer comes in as many frames as it has bytes."""
    answer = message(b"x" * 40)
    with connect(patient) as slow:
        slow.send(settings(initial_window_size=0), slow.request(1, b"x" * 40))
        for _ in answer:
            slow.send(window_update(1, 1))
        check_others(patient)
        slow.send(pack_frame(FrameType.GOAWAY, 0, 0, bytes(8)))
        pieces = [frame.payload for frame in slow.read_to_end() if frame.kind == FrameType.DATA]
        assert b"".join(pieces) == answer
