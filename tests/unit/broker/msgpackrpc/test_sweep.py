"""Timeouts of unfinished messages: they depend on that message only, not on those before it."""

from typing import Any

import msgpack

from tests.unit.broker.msgpackrpc.test_server import Peer, keeping, run
from tykpy.broker.connections import SWEEP_INTERVAL
from tykpy.broker.msgpackrpc.server import MsgpackRpcServer, RpcLimits

MOST = int(RpcLimits().request_timeout / SWEEP_INTERVAL)
"""Sweeps that an unfinished message survives."""
CALL = msgpack.packb([0, 7, "ping", [bytes(1000)]])
BIG = msgpack.packb([0, 7, "ping", [bytes(1_000_000)]])


def pinged() -> tuple[MsgpackRpcServer, Peer]:
    server = MsgpackRpcServer({"ping": lambda message, reply: reply.answer("pong")})
    return server, Peer(server)


def trickle(server: MsgpackRpcServer, peer: Peer, data: bytes, size: int) -> int:
    """Send a piece before each sweep; return the sweeps until the message expired or was complete."""
    for number, at in enumerate(range(0, len(data), size)):
        if peer.transport.ended:
            return number
        peer.protocol.data_received(data[at : at + size])
        server.connections.sweep(0.0)
    return -(-len(data) // size)


def test_an_unfinished_message_expires() -> None:
    async def scenario() -> None:
        server, peer = pinged()
        peer.protocol.data_received(CALL[:-1])
        for _ in range(MOST):
            server.connections.sweep(0.0)
        assert await peer.answers() == []
        server.connections.sweep(0.0)
        assert await peer.answers() == [[1, 7, "EXPIRED: the rest of the message did not come in time", None]]
        assert peer.transport.ended
        server.connections.abort()
        peer.protocol.connection_lost(None)

    run(scenario)


def test_a_message_that_trickles_in_expires() -> None:
    async def scenario() -> None:
        server, peer = pinged()
        assert trickle(server, peer, CALL, 1) == MOST + 1
        peer.protocol.connection_lost(None)

    run(scenario)


def test_a_message_that_was_fast_may_not_trickle_afterwards() -> None:
    async def scenario() -> None:
        server, peer = pinged()
        fast = RpcLimits().request_progress
        peer.protocol.data_received(BIG[:fast])
        server.connections.sweep(0.0)
        assert trickle(server, peer, BIG[fast:], 1) == MOST + 1
        peer.protocol.connection_lost(None)

    run(scenario)


def test_a_large_slow_message_does_not_expire() -> None:
    async def scenario() -> None:
        server, peer = pinged()
        size = -(-RpcLimits().request_progress // MOST)
        assert trickle(server, peer, BIG, size) > 3 * MOST
        assert await peer.answers() == [[1, 7, None, "pong"]]
        peer.protocol.connection_lost(None)

    run(scenario)


def test_a_peer_may_always_send_partial_messages() -> None:
    async def scenario() -> None:
        server, peer = pinged()
        peer.protocol.data_received(CALL[:500])
        for _ in range(5 * MOST):
            peer.protocol.data_received(CALL[500:] + CALL[:500])
            server.connections.sweep(0.0)
        assert len(await peer.answers()) == 5 * MOST
        peer.protocol.connection_lost(None)

    run(scenario)


def test_a_message_does_not_expire_while_we_do_not_read() -> None:
    replies: list[Any] = []

    async def scenario() -> None:
        server = MsgpackRpcServer({"keep": keeping(replies)}, RpcLimits(max_in_flight=1))
        peer = Peer(server)
        peer.send(*([0, number, "keep", []] for number in (1, 2)))
        for _ in range(5 * MOST):
            server.connections.sweep(0.0)
        for _ in range(2):
            replies.pop().answer("kept")
            assert len(await peer.answers()) == 1
        peer.protocol.connection_lost(None)

    run(scenario)
