"""Connections over time: sweeps, timeouts and transports. Time only passes when a test says so."""

import asyncio
from typing import cast

import pytest

from tests.support.gateway.echo_dispatcher import EchoDispatcher
from tests.support.peers.http2_peer import Frame, Peer, code_of, data, frames, message, settings
from tykpy.broker.connections import MAX_REFUSED, SWEEP_INTERVAL
from tykpy.broker.grpc.server import REFUSED_IDLE, GrpcProtocol, GrpcServer
from tykpy.broker.grpc.timeouts import AGE_JITTER
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.http2.frames import ACK, END_STREAM, PREFACE, FrameType, pack_frame
from tykpy.broker.http2.limits import MIB, Limits
from tykpy.broker.net.access import Admission

ACKNOWLEDGEMENT = pack_frame(FrameType.SETTINGS, ACK, 0)
HELLO = PREFACE + settings() + ACKNOWLEDGEMENT


class FakeTransport:
    """A transport whose peer reads when a test says so."""

    def __init__(self) -> None:
        self.written = b""
        self.unsent = 0
        self.reading = True
        self.aborted = self.eof = False

    def write(self, data: bytes) -> None:
        self.written += data

    def frames(self) -> list[Frame]:
        return frames(self.written)

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.aborted

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def abort(self) -> None:
        self.aborted = True


class Served:
    """One server and its connections, each on a fake transport."""

    def __init__(self, limits: Limits | None = None, admission: Admission | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.echo = EchoDispatcher()
        self.server = GrpcServer(self.echo, limits, admission=admission)

    def connect(self, hello: bytes = HELLO) -> tuple[GrpcProtocol, FakeTransport]:
        protocol = cast(GrpcProtocol, self.server.protocol_factory())
        transport = FakeTransport()
        protocol.connection_made(cast(asyncio.Transport, transport))
        protocol.data_received(hello)
        return protocol, transport

    def sweep(self, seconds: float) -> None:
        """Sweep as often as happens in this time."""
        now = self.loop.time()
        for number in range(int(seconds // SWEEP_INTERVAL) + 2):
            self.server.connections.sweep(now + number * SWEEP_INTERVAL)

    def close(self, *protocols: GrpcProtocol) -> None:
        for protocol in protocols:
            protocol.connection_lost(None)
        assert len(self.server.connections) == 0


def request(body: bytes, *, ended: bool = True, stream_id: int = 1) -> bytes:
    peer = Peer()
    whole = message(body)
    return peer.headers(stream_id) + (data(stream_id, whole) if ended else data(stream_id, whole[:-1], 0))


def test_a_peer_without_handshake_is_closed() -> None:
    async def scenario() -> None:
        served = Served()
        silent, transport = served.connect(b"")
        good, other = served.connect()
        served.sweep(served.server.limits.handshake_timeout)
        assert code_of(transport.frames(), FrameType.GOAWAY) == ErrorCode.SETTINGS_TIMEOUT
        assert transport.eof
        assert not other.eof
        served.close(silent, good)

    asyncio.run(scenario())


def test_an_unfinished_request_expires() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        protocol.data_received(request(b"x", ended=False))
        served.sweep(served.server.limits.request_timeout / 2)
        assert protocol._connection.streams
        served.sweep(served.server.limits.request_timeout)
        assert not protocol._connection.streams
        assert b"grpc-status\x014" in transport.written
        served.close(protocol)

    asyncio.run(scenario())


def trickle(served: Served, protocol: GrpcProtocol, sweeps: int, size: int) -> int:
    """Send `size` bytes of an endless request before each sweep; return the sweeps until it expired."""
    protocol.data_received(Peer().headers(1) + data(1, b"\0" + (8 * MIB).to_bytes(4, "big"), 0))
    for number in range(sweeps):
        if not protocol._connection.streams:
            return number
        protocol.data_received(data(1, bytes(size), 0))
        served.server.connections.sweep(served.loop.time())
    return sweeps


def test_a_request_that_trickles_in_expires() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        most = int(served.server.limits.request_timeout / SWEEP_INTERVAL)
        assert trickle(served, protocol, 10 * most, 1) == most + 1
        assert b"grpc-status\x014" in transport.written
        assert not protocol._connection.closed
        served.close(protocol)

    asyncio.run(scenario())


def test_a_request_that_was_fast_may_not_trickle_afterwards() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, _ = served.connect()
        limits = served.server.limits
        most = int(limits.request_timeout / SWEEP_INTERVAL)
        protocol.data_received(Peer().headers(1) + data(1, b"\0" + (8 * MIB).to_bytes(4, "big"), 0))
        for part in (16_384, 16_384, 16_384, limits.request_progress - 3 * 16_384 - 5):
            protocol.data_received(data(1, bytes(part), 0))
        served.server.connections.sweep(served.loop.time())
        for _ in range(most):
            protocol.data_received(data(1, b"x", 0))
            served.server.connections.sweep(served.loop.time())
        assert protocol._connection.streams
        served.server.connections.sweep(served.loop.time())
        assert not protocol._connection.streams
        served.close(protocol)

    asyncio.run(scenario())


def test_a_large_slow_request_does_not_expire() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, _ = served.connect()
        limits = served.server.limits
        size = -(-limits.request_progress // int(limits.request_timeout / SWEEP_INTERVAL))
        assert trickle(served, protocol, 500, size) == 500
        served.close(protocol)

    asyncio.run(scenario())


def test_each_message_of_a_stream_has_its_own_timeout() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, _ = served.connect()
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        protocol.data_received(Peer().headers(1, path=path))
        sweeps = 5 * int(served.server.limits.request_timeout / SWEEP_INTERVAL)
        for number in range(sweeps):
            protocol.data_received(data(1, message(b"\x3a\x00") if number % 10 == 0 else b"", 0))
            served.server.connections.sweep(served.loop.time())
        assert protocol._connection.streams
        served.sweep(2 * served.server.limits.request_timeout)
        assert not protocol._connection.streams
        served.close(protocol)

    asyncio.run(scenario())


def test_a_peer_must_acknowledge_that_it_has_no_table() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        protocol.data_received(request(b"hold:"))
        protocol.data_received(request(b"hold:", stream_id=3))
        served.sweep(2 * served.server.limits.handshake_timeout)
        assert code_of(transport.frames(), FrameType.GOAWAY) == ErrorCode.SETTINGS_TIMEOUT
        served.close(protocol)

    asyncio.run(scenario())


HALVES = {
    "frame": pack_frame(FrameType.PING, 0, 0, bytes(8))[:-1],
    "frame's head": pack_frame(FrameType.PING, 0, 0, bytes(8))[:3],
    "header block": pack_frame(FrameType.HEADERS, 0, 1, b"\x83"),
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES.keys())
def test_half_a_frame_ends_the_connection(half: bytes) -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        protocol.data_received(half)
        served.sweep(served.server.limits.request_timeout / 2)
        assert not protocol._connection.closed
        served.sweep(served.server.limits.request_timeout)
        assert code_of(transport.frames(), FrameType.GOAWAY) == ErrorCode.ENHANCE_YOUR_CALM
        served.close(protocol)

    asyncio.run(scenario())


def test_a_peer_may_always_send_partial_frames() -> None:
    async def scenario() -> None:
        served = Served(Limits(control_rate=100_000))
        protocol, _ = served.connect()
        ping = pack_frame(FrameType.PING, 0, 0, bytes(8))
        protocol.data_received(ping[:-5])
        for _ in range(100):
            protocol.data_received(ping[-5:] + ping[:-5])
            served.sweep(SWEEP_INTERVAL)
        assert not protocol._connection.closed
        served.close(protocol)

    asyncio.run(scenario())


def test_pings_are_acknowledged_later_all_at_once() -> None:
    """Answers do not wait for that, and a connection that ends meanwhile is freed."""

    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        pings = [bytes(8), b"12345678"]
        protocol.data_received(pack_frame(FrameType.PING, 0, 0, pings[0]) + request(b"x"))
        protocol.data_received(pack_frame(FrameType.PING, 0, 0, pings[1]))
        assert FrameType.PING not in {frame.kind for frame in transport.frames()}
        while not (pongs := [frame for frame in transport.frames() if frame.kind == FrameType.PING]):
            await asyncio.sleep(0)
        assert [(frame.flags, frame.payload) for frame in pongs] == [(ACK, payload) for payload in pings]
        protocol.data_received(pack_frame(FrameType.PING, 0, 0, pings[0]))
        protocol.abort()
        served.close(protocol)
        assert not protocol._connection._pings

    asyncio.run(scenario())


def test_sweeps_leave_running_calls_alone() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, _ = served.connect()
        protocol.data_received(request(b"hold:"))
        served.sweep(10 * served.server.limits.idle_timeout)
        assert protocol._connection.streams
        served.close(protocol)

    asyncio.run(scenario())


def test_an_idle_connection_is_asked_to_go() -> None:
    async def scenario() -> None:
        limits = Limits(idle_timeout=60)
        served = Served(limits)
        protocol, transport = served.connect()
        served.sweep(50)
        assert FrameType.GOAWAY not in {frame.kind for frame in transport.frames()}
        served.sweep(60 + limits.handshake_timeout + 2 * SWEEP_INTERVAL)
        goaways = [frame for frame in transport.frames() if frame.kind == FrameType.GOAWAY]
        assert len(goaways) >= 2
        assert all(frame.payload[4:8] == bytes(4) for frame in goaways)
        assert transport.eof
        served.close(protocol)

    asyncio.run(scenario())


def test_an_old_connection_is_asked_to_go_whatever_runs_on_it() -> None:
    async def scenario() -> None:
        limits = Limits(max_age=1000)
        served = Served(limits)
        protocol, transport = served.connect()
        protocol.data_received(request(b"hold:"))
        served.sweep(limits.max_age * (1 - AGE_JITTER) - 2 * SWEEP_INTERVAL)
        assert FrameType.GOAWAY not in {frame.kind for frame in transport.frames()}
        later = limits.max_age * (1 + AGE_JITTER)
        served.sweep(later)
        assert FrameType.GOAWAY in {frame.kind for frame in transport.frames()}
        served.sweep(later + limits.handshake_timeout + 2 * SWEEP_INTERVAL)
        assert not transport.eof
        served.echo.release()
        await asyncio.sleep(0)
        assert transport.eof
        served.close(protocol)

    asyncio.run(scenario())


def test_a_denied_peer_keeps_its_connection_for_a_moment() -> None:
    async def scenario() -> None:
        served = Served(admission=lambda transport: "not you")
        protocol, transport = served.connect()
        protocol.data_received(request(b"x"))
        answer = next(frame for frame in transport.frames() if frame.kind == FrameType.HEADERS)
        assert answer.flags & END_STREAM
        assert FrameType.GOAWAY not in {frame.kind for frame in transport.frames()}
        served.sweep(REFUSED_IDLE + served.server.limits.handshake_timeout + 3 * SWEEP_INTERVAL)
        assert transport.eof
        served.close(protocol)

    asyncio.run(scenario())


def test_a_peer_that_does_not_read_is_closed_in_the_end() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        protocol.pause_writing()
        assert not transport.reading
        transport.unsent = 2 * MIB
        served.sweep(served.server.limits.write_timeout / 2)
        assert not transport.aborted
        protocol.resume_writing()
        assert transport.reading
        protocol.pause_writing()
        served.sweep(2 * served.server.limits.write_timeout)
        assert transport.aborted
        served.close(protocol)

    asyncio.run(scenario())


def test_a_slow_reader_keeps_its_connection() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        protocol.pause_writing()
        transport.unsent = 2 * MIB
        now = served.loop.time()
        for number in range(40):
            transport.unsent -= 1000
            served.server.connections.sweep(now + number * SWEEP_INTERVAL)
        assert not transport.aborted
        served.close(protocol)

    asyncio.run(scenario())


def test_a_connection_above_the_limit_is_refused() -> None:
    async def scenario() -> None:
        served = Served(Limits(max_connections=1))
        first, kept = served.connect()
        second, refused = served.connect()
        assert code_of(refused.frames(), FrameType.GOAWAY) == ErrorCode.ENHANCE_YOUR_CALM
        assert refused.eof
        assert not kept.eof
        assert len(served.server.connections) == 1
        second.connection_lost(None)
        served.close(first)

    asyncio.run(scenario())


def test_only_some_refused_connections_learn_the_reason() -> None:
    async def scenario() -> None:
        served = Served(Limits(max_connections=1))
        first, kept = served.connect()
        refused = [served.connect() for _ in range(MAX_REFUSED + 10)]
        assert [transport.aborted for _, transport in refused] == [False] * MAX_REFUSED + [True] * 10
        for protocol, _ in refused:
            protocol.connection_lost(None)
        assert not served.server.connections.refused
        assert not kept.aborted
        served.close(first)

    asyncio.run(scenario())


def test_all_answers_of_a_turn_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        peer = Peer()
        protocol.data_received(b"".join(peer.request(2 * n + 1, b"hold:%d" % n) for n in range(50)))
        writes: list[bytes] = []
        monkeypatch.setattr(transport, "write", writes.append)
        served.echo.release()
        await asyncio.sleep(0)
        assert len(writes) == 1
        assert len(frames(writes[0])) == 150
        served.close(protocol)

    asyncio.run(scenario())


@pytest.mark.parametrize("held", [True, False])
def test_draining(held: bool) -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        if held:
            protocol.data_received(request(b"hold:"))
        served.server.drain()
        ping = next(frame for frame in transport.frames() if frame.kind == FrameType.PING)
        protocol.data_received(pack_frame(FrameType.PING, ACK, 0, ping.payload))
        assert transport.eof is not held
        served.echo.release()
        await asyncio.sleep(0)
        assert transport.eof
        late, other = served.connect()
        assert FrameType.GOAWAY not in {frame.kind for frame in other.frames()}
        assert not served.server.connections._closed.is_set()
        protocol.connection_lost(None)
        await served.server.connections.closed()
        assert len(served.server.connections) == 1
        served.close(late)

    asyncio.run(scenario())


def test_drain_does_not_wait_forever_for_a_ping() -> None:
    async def scenario() -> None:
        served = Served()
        protocol, transport = served.connect()
        served.server.drain()
        assert not transport.eof
        served.sweep(served.server.limits.handshake_timeout + SWEEP_INTERVAL)
        assert transport.eof
        served.close(protocol)

    asyncio.run(scenario())
