"""The limit on bytes of unfinished messages, over all MessagePack-RPC connections."""

from typing import Any

import msgpack

from tests.unit.broker.msgpackrpc.test_server import Peer, keeping, run
from tykpy.broker.arriving import Arriving
from tykpy.broker.msgpackrpc.server import MsgpackRpcServer, RpcLimits

SIZE = 100_000
WHOLE = msgpack.packb([0, 7, "ping", [bytes(SIZE)]])
HALF = WHOLE[: SIZE // 2]


def server_with(arriving: Arriving) -> MsgpackRpcServer:
    return MsgpackRpcServer({"ping": lambda message, reply: reply.answer("pong")}, arriving=arriving)


def test_a_message_without_room_ends_its_connection() -> None:
    async def scenario() -> None:
        arriving = Arriving(limit=2 * len(HALF))
        server = server_with(arriving)
        peers = [Peer(server) for _ in range(3)]
        for peer in peers:
            peer.protocol.data_received(HALF)
        ((kind, call_id, error, _),) = await peers[2].answers()
        assert (kind, call_id) == (1, 7)
        assert error.startswith(f"OVERLOADED: unfinished requests of {3 * len(HALF)} bytes on all connections")
        assert peers[2].transport.ended
        assert (arriving.bytes, arriving.refused) == (2 * len(HALF), 1)
        # Peers that already have room, and those that need none, are served.
        peers[0].protocol.data_received(WHOLE[len(HALF) :])
        Peer(server).send([0, 1, "ping", []])
        assert await peers[0].answers() == [[1, 7, None, "pong"]]
        assert arriving.bytes == len(HALF)
        peers[1].protocol.connection_lost(None)
        peers[2].protocol.connection_lost(None)
        assert arriving.bytes == 0

    run(scenario)


def test_a_single_message_may_finish_whatever_its_size() -> None:
    async def scenario() -> None:
        arriving = Arriving(limit=SIZE // 4)
        peer = Peer(server_with(arriving))
        peer.protocol.data_received(HALF)
        peer.protocol.data_received(WHOLE[len(HALF) :])
        assert await peer.answers() == [[1, 7, None, "pong"]]
        assert arriving.bytes == 0

    run(scenario)


def test_a_peer_that_hangs_up_when_it_is_read_again_is_released() -> None:
    """The answer has scheduled another read, which must do nothing on a closed connection."""
    replies: list[Any] = []

    async def scenario() -> None:
        arriving = Arriving()
        methods = {"keep": keeping(replies)}
        server = MsgpackRpcServer(methods, RpcLimits(max_in_flight=1), arriving=arriving)
        peer = Peer(server)
        peer.send(*([0, number, "keep", []] for number in (1, 2, 3)))
        replies.pop().answer(None)
        peer.protocol.connection_lost(None)
        await peer.answers()
        assert arriving.bytes == 0
        for _ in range(20):
            server.connections.sweep(0.0)
        assert arriving.bytes == 0
        assert not server.connections

    run(scenario)


def test_unread_calls_count_as_unfinished() -> None:
    replies: list[Any] = []

    async def scenario() -> None:
        arriving = Arriving()
        server = MsgpackRpcServer(
            {"keep": keeping(replies)},
            RpcLimits(max_in_flight=1),
            arriving=arriving,
        )
        peer = Peer(server)
        call = msgpack.packb([0, 1, "keep", []])
        peer.send(*([0, number, "keep", []] for number in (1, 2, 3)))
        assert arriving.bytes == 2 * len(call)
        for _ in range(3):
            replies.pop().answer(None)
            await peer.answers()
        assert arriving.bytes == 0

    run(scenario)
