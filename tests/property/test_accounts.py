"""Finished requests leave no bytes counted, whatever peers and workers do, in any order.

Both front ends, the router and one worker's channel are real; the test plays the transports. Events are drawn at
random, and the same seed gives the same run.
"""

import asyncio
import gzip
import random
import select
import time
from collections.abc import Callable
from typing import Any, Final, cast

import msgpack
import pytest
from hpack import Encoder

from tests.support.channels import LocalWorker
from tests.support.peers.dispatches import object_bytes
from tests.support.peers.http2_peer import PATH, data, message, reset, settings, window_update
from tests.unit.ipc.channel.ends import whole
from tykpy.broker.arriving import Arriving
from tykpy.broker.end_of_turn import EndOfTurn
from tykpy.broker.grpc.calls import Upload
from tykpy.broker.grpc.server import GrpcProtocol, GrpcServer
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.http2.frames import ACK, END_HEADERS, END_STREAM, PREFACE, FrameType, pack_frame, pack_goaway
from tykpy.broker.http2.limits import Limits
from tykpy.broker.msgpackrpc.methods import dispatch_methods
from tykpy.broker.msgpackrpc.server import MsgpackRpcServer, RpcLimits
from tykpy.broker.router.deaths import Cause, Death
from tykpy.broker.router.router import Router, RouterOptions
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.channel.messages import Request

KIB: Final = 1024
MINUTE_NS: Final = 60 * 10**9
MOST: Final = 100 * KIB
"""Limit of the bytes that wait or run, and of those that are arriving."""
LIMITS: Final = Limits(max_message=64 * KIB, max_concurrent_streams=6, max_output=64 * KIB)
RPC_LIMITS: Final = RpcLimits(max_message=64 * KIB, max_in_flight=3)
STORE: Final = 256 * KIB
HELLO: Final = PREFACE + settings() + pack_frame(FrameType.SETTINGS, ACK, 0)
OBJECT: Final = object_bytes("hook")
BIG: Final = OBJECT + b"\xa2\x06\xd0\x8c\x01" + bytes(18_000)  # an unknown field
METHODS: Final = {
    PATH: OBJECT,
    "/coprocess.Dispatcher/DispatchEvent": b"",
    "/grpc.health.v1.Health/Check": b"",
    "/grpc.health.v1.Health/Watch": b"",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": b"\x3a\x01*",
    "/unknown": b"",
}
PIECES: Final[dict[str, bytes]] = {
    "nothing": b"",
    "small": message(OBJECT),
    "big": message(BIG),
    "big compressed": b"\1" + message(gzip.compress(BIG))[1:],
    "two": message(OBJECT) * 2,
    "two and more begun": message(b"") * 2 + b"\0\0\0\x08\0" + bytes(1000),
    "reflection": message(b"\x3a\x01*") * 3,
    "malformed": message(b"\xff"),
    "half a prefix": b"\0\0",
    "begun": b"\0\0\0\x40\0" + bytes(5000),
    "more": bytes(6000),
    "far too large": b"\0\x7f\xff\xff\xff",
    "flag": b"\7\0\0\0\1x",
}
RPC_CALL: Final = msgpack.packb([0, 1, "dispatch", [{"hook_name": "hook", "request": {"raw_body": bytes(20_000)}}]])
RPC_PIECES: Final[dict[str, bytes]] = {
    "call": RPC_CALL,
    "two calls and a half": RPC_CALL * 2 + RPC_CALL[:9000],
    "half": RPC_CALL[:9000],
    "rest": RPC_CALL[9000:],
    "ping": msgpack.packb([0, 2, "ping", []]),
    "notification": msgpack.packb([2, "dispatch_event", [{}]]),
    "late": msgpack.packb([0, 3, "dispatch", [{"hook_name": "hook"}, {"timeout": 1e-9}]]),
    "far too large": msgpack.packb([0, 4, "dispatch", [bytes(70_000)]]),
    "garbage": b"\xc1",
}
TIMEOUTS: Final = ("", "", "1n", "60S", "bad")
ENCODINGS: Final = ("", "", "gzip")
SEEDS: Final = 150
STEPS: Final = 80


WHAT_HAPPENS: Final = {
    "open_stream": 8,
    "send_piece": 8,
    "make_calls": 5,
    "send_byte_by_byte": 1,
    "send_trailers": 1,
    "reset_stream": 2,
    "change_windows": 2,
    "widen_window": 1,
    "go_away": 0.3,
    "hang_up": 0.6,
    "stop_or_go_on_reading": 1,
    "wait_for_requests_in_vain": 0.5,
    "send_rpc": 8,
    "hang_up_rpc": 1,
    "start_calls": 6,
    "answer": 5,
    "die": 0.5,
    "leave": 0.3,
}
"""Relative frequency of each event."""


class Transport(asyncio.Transport):
    """A peer that reads everything until it hangs up."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False

    def write(self, data: Any) -> None: ...

    def writelines(self, list_of_data: Any) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


class Accounts:
    """Two connections on each front end, one router, one worker with two threads. Each method is one event."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.loop = asyncio.new_event_loop()
        end_of_turn = EndOfTurn(self.loop)
        self.bodies = BodyStore(STORE)
        self.arriving = Arriving(MOST)
        self.router = Router(self.loop, RouterOptions(MINUTE_NS, 4, queue_bytes=MOST), end_of_turn)
        self.router.watcher = self
        self.grpc = GrpcServer(self.router, LIMITS, self.loop, None, end_of_turn, self.bodies, self.arriving)
        methods = dispatch_methods(self.router, list)
        self.rpc = MsgpackRpcServer(methods, RPC_LIMITS, self.loop, end_of_turn=end_of_turn, arriving=self.arriving)
        self.encoder = Encoder()
        self.encoder.header_table_size = 0
        self.gateways: dict[GrpcProtocol, int] = {}
        """Open connections, each with the id of its next stream."""
        self.rpc_peers: list[Any] = []
        self.generation = 0
        self.hire()
        self.act(self.dial)

    def dial(self) -> None:
        """Replace connections that are closed or going away."""
        for protocol in [each for each in self.gateways if each._connection.going_away or each._connection.closed]:
            if self.chance.random() < 0.3:
                self.drop(protocol)
        while len(self.gateways) < 2:
            protocol = cast(GrpcProtocol, self.grpc.protocol_factory())
            protocol.connection_made(Transport())
            protocol.data_received(HELLO)
            self.gateways[protocol] = 1
        for peer in [peer for peer in self.rpc_peers if peer._refused or peer._transport.is_closing()]:
            if self.chance.random() < 0.3:
                self.drop_rpc(peer)
        while len(self.rpc_peers) < 2:
            peer = cast(Any, self.rpc.protocol_factory())
            peer.connection_made(Transport())
            self.rpc_peers.append(peer)

    def act(self, step: Callable[[], object]) -> None:
        """Run one step inside the event loop, with the callbacks that it schedules."""

        async def turn() -> None:
            step()
            for _ in range(3):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def step(self) -> None:
        """Play one random event, then check the accounts."""
        (name,) = self.chance.choices(list(WHAT_HAPPENS), list(WHAT_HAPPENS.values()))
        self.act(getattr(self, name))
        self.act(self.dial)
        self.check()

    # The router's watcher, which does nothing.

    def overdue(self, link: object) -> None: ...

    def gone(self, link: object) -> None: ...

    def silent(self, link: object) -> None: ...

    def corrupt(self, link: object, error: object) -> None:
        raise AssertionError(error)

    # -- gRPC ---

    def send(self, frames: bytes, protocol: GrpcProtocol | None = None) -> None:
        protocol = protocol or self.gateway()
        transport = protocol._transport
        if transport is not None and not transport.is_closing():
            protocol.data_received(frames)

    def gateway(self) -> GrpcProtocol:
        return self.chance.choice(list(self.gateways))

    def head(self, protocol: GrpcProtocol, method: str, timeout: str = "", encoding: str = "", flags: int = 0) -> bytes:
        fields = [(":method", "POST"), (":scheme", "http"), (":path", method), ("content-type", "application/grpc")]
        fields += [("grpc-timeout", timeout)] * bool(timeout) + [("grpc-encoding", encoding)] * bool(encoding)
        stream_id = self.gateways[protocol]
        self.gateways[protocol] += 2
        return pack_frame(FrameType.HEADERS, END_HEADERS | flags, stream_id, self.encoder.encode(fields))

    def pieces(self, stream_id: int, ended: bool) -> bytes:
        """Return a random piece as DATA frames of at most 16 KiB."""
        piece = self.chance.choice(list(PIECES.values()))
        parts = [piece[at : at + 16_384] for at in range(0, len(piece), 16_384)] or [b""]
        last = parts.pop()
        return b"".join(data(stream_id, part, 0) for part in parts) + data(stream_id, last, END_STREAM if ended else 0)

    def a_stream(self, protocol: GrpcProtocol) -> int:
        """Choose an open stream, or one of the last five."""
        some = [*protocol._connection.streams, max(1, self.gateways[protocol] - 2 * self.chance.randint(1, 5))]
        return self.chance.choice(some)

    def open_stream(self) -> None:
        protocol = self.gateway()
        method, timeout, encoding = (self.chance.choice(some) for some in (list(METHODS), TIMEOUTS, ENCODINGS))
        stream_id = self.gateways[protocol]
        if self.chance.random() < 0.1:
            self.send(self.head(protocol, method, timeout, encoding, END_STREAM), protocol)
        else:
            self.send(self.head(protocol, method, timeout, encoding) + self.pieces(stream_id, False), protocol)

    def send_piece(self) -> None:
        protocol = self.gateway()
        self.send(self.pieces(self.a_stream(protocol), self.chance.random() < 0.4), protocol)

    def make_calls(self) -> None:
        """Send three whole calls in one read."""
        protocol = self.gateway()
        frames = b""
        for method in self.chance.choices(list(METHODS), k=3):
            stream_id = self.gateways[protocol]
            frames += self.head(protocol, method) + data(stream_id, message(METHODS[method]))
        self.send(frames, protocol)

    def send_byte_by_byte(self) -> None:
        protocol = self.gateway()
        stream_id = self.a_stream(protocol)
        count = self.chance.randint(1, 8)
        self.send(b"".join(data(stream_id, PIECES["small"][at : at + 1], 0) for at in range(count)), protocol)

    def send_trailers(self) -> None:
        protocol = self.gateway()
        block = self.encoder.encode([("x", "y")])
        self.send(pack_frame(FrameType.HEADERS, END_HEADERS | END_STREAM, self.a_stream(protocol), block), protocol)

    def reset_stream(self) -> None:
        protocol = self.gateway()
        self.send(reset(self.a_stream(protocol)), protocol)

    def change_windows(self) -> None:
        """Change the window, so that answers wait or go out while the peer sends."""
        self.send(settings(initial_window_size=self.chance.choice([0, 3, 65_535])))

    def widen_window(self) -> None:
        self.send(window_update(0, 100_000))

    def go_away(self) -> None:
        self.send(pack_goaway(0, ErrorCode.NO_ERROR, ""))

    def hang_up(self) -> None:
        self.drop(self.gateway())

    def drop(self, protocol: GrpcProtocol) -> None:
        del self.gateways[protocol]
        protocol.connection_lost(None)

    def stop_or_go_on_reading(self) -> None:
        protocol = self.gateway()
        protocol.resume_writing() if protocol._connection.sender.paused else protocol.pause_writing()

    def wait_for_requests_in_vain(self) -> None:
        now = self.loop.time()
        for seconds in range(0, 80, 5):
            self.grpc.connections.sweep(now + seconds)
            self.rpc.connections.sweep(now + seconds)

    # -- MessagePack-RPC ---

    def send_rpc(self) -> None:
        peer = self.chance.choice(self.rpc_peers)
        (piece,) = self.chance.choices(list(RPC_PIECES.values()), [8] * (len(RPC_PIECES) - 2) + [1, 1])
        if not peer._transport.is_closing():
            peer.data_received(piece)

    def hang_up_rpc(self) -> None:
        """Hang up, half of the time right after answers that let the connection read on."""
        if self.chance.random() < 0.5:
            self.answer()
        self.drop_rpc(self.chance.choice(self.rpc_peers))

    def drop_rpc(self, peer: Any) -> None:
        self.rpc_peers.remove(peer)
        peer.connection_lost(None)

    # -- the worker ---

    def hire(self) -> None:
        self.generation += 1
        self.worker = LocalWorker(0, self.generation, 2, self.bodies)
        self.claimed: dict[int, Request] = {}
        self.router.join(self.worker.link)

    def start_calls(self) -> None:
        """Start the calls that the doorbell announced, without waiting, and answer expired ones."""
        channel = self.worker.channel
        doorbell = channel._parts.requests._reader
        for slot in {0, 1} - self.claimed.keys():
            while slot not in self.claimed and select.select([doorbell], [], [], 0)[0] and channel._take():
                request = channel._start(slot, time.monotonic_ns())
                channel._commit()
                if request is not None:
                    self.claimed[slot] = request

    def answer(self) -> None:
        for slot, request in self.claimed.items():
            if self.chance.random() < 0.7:
                self.worker.finish(request, slot)
            else:
                self.worker.channel.answer(slot, request.seq, whole(b"nonsense"), self.chance.random() < 0.5, 1000)
        self.claimed.clear()
        self.router.receive(self.worker.link)

    def die(self) -> None:
        channel = self.worker.link.channel
        cause, trusted = self.chance.choice(list(Cause)), self.chance.random() < 0.9
        self.router.lost(self.worker.link, Death("a test", cause, channel.drain(), channel.executing(), trusted))
        self.worker.close()
        self.router.quarantine.clear()
        self.hire()

    def leave(self) -> None:
        self.router.leave(self.worker.link)
        self.die()

    # -- invariants ---

    def check(self) -> None:
        connections = [protocol._connection for protocol in self.gateways]
        streams = [stream for connection in connections for stream in connection.streams.values()]
        uploads = [stream.application for stream in streams if isinstance(stream.application, Upload)]
        pending = [peer._reader.pending for peer in self.rpc_peers]
        assert self.arriving.bytes == sum(upload.held for upload in uploads) + sum(pending)
        at_worker = self.worker.link.in_flight.values()
        assert self.router.held == sum(len(each.body) for each in [*self.router._pending, *at_worker])
        for connection in connections:
            waiting = [stream.pending for stream in connection.streams.values() if stream.pending]
            assert connection.sender.held == sum(len(part) for parts in waiting for part in parts)

    def end(self) -> None:
        """Close all connections and let the worker die."""
        for protocol in list(self.gateways):
            self.drop(protocol)
        for peer in list(self.rpc_peers):
            self.drop_rpc(peer)
        assert self.arriving.bytes == 0
        self.die()
        assert (self.router.held, self.router.under_way, self.router.waiting) == (0, 0, 0)
        series = self.router.hooks.stats.series()
        assert (
            sum(one.count for one in series)
            == sum(sum(one.wait_counts) for one in series)
            == self.router.counters.taken
        )
        assert self.bodies.used == 0

    def close(self) -> None:
        assert not self.rpc.connections
        self.worker.close()
        self.bodies.close()
        self.loop.close()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_stays_counted_of_requests_that_are_over(seed: int) -> None:
    accounts = Accounts(seed)
    try:
        for _ in range(STEPS):
            accounts.step()
        accounts.act(accounts.end)
    finally:
        accounts.close()
