"""The MessagePack-RPC server against a fake transport: calls, limits, refusals, hang-ups."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest

from tykpy.broker.errors import DispatchError
from tykpy.broker.msgpackrpc.methods import dispatch_methods
from tykpy.broker.msgpackrpc.server import MsgpackRpcServer, Reply, RpcLimits, RpcMethod, decoded
from tykpy.broker.msgpackrpc.wire import MAX_DECODED
from tykpy.broker.router.dispatch import Dispatch
from tykpy.ipc.frame import Kind, Status

OBJECT = {"hook_name": "H", "request": {"raw_body": b"\xff", "body": "text"}, "session": {"rate": 2.0, "expires": 2}}


class FakeTransport(asyncio.Transport):
    """Records what is written; `unread` is what the peer has not read yet, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.unread = 0
        self.paused = False
        self.ended = self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class FakeRouter:
    """Takes dispatches, which the test answers."""

    def __init__(self) -> None:
        self.taken: list[Dispatch] = []
        self.cancelled: list[Dispatch] = []

    def dispatch(self, dispatch: Dispatch) -> None:
        self.taken.append(dispatch)

    def cancel(self, dispatch: Dispatch) -> None:
        self.cancelled.append(dispatch)


class Peer:
    """The test's side of one connection."""

    def __init__(self, server: MsgpackRpcServer) -> None:
        self.transport = FakeTransport()
        protocol = server.protocol_factory()
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol
        protocol.connection_made(self.transport)

    def send(self, *messages: Any) -> None:
        self.protocol.data_received(b"".join(msgpack.packb(message) for message in messages))

    async def answers(self) -> list[Any]:
        await turn()
        unpacker = msgpack.Unpacker()
        unpacker.feed(b"".join(self.transport.writes))
        self.transport.writes.clear()
        return list(unpacker)


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def keeping(replies: list[Any]) -> RpcMethod:
    """A method whose calls the test answers."""
    return decoded(lambda params, reply: replies.append(reply))


def gateway_server(router: FakeRouter, limits: RpcLimits | None = None) -> MsgpackRpcServer:
    return MsgpackRpcServer(dispatch_methods(router, lambda: [{"bundle": "b"}]), limits)


def server_of(methods: dict[str, RpcMethod], limits: RpcLimits | None = None) -> MsgpackRpcServer:
    return MsgpackRpcServer(methods, limits)


def test_ping_hooks_and_an_unknown_method() -> None:
    async def scenario() -> None:
        peer = Peer(gateway_server(FakeRouter()))
        peer.send([0, 1, "ping", []], [0, 2, "hooks", []], [0, 3, "dance", []])
        ping, hooks, dance = await peer.answers()
        assert ping == [1, 1, None, "pong"]
        assert hooks == [1, 2, None, [{"bundle": "b"}]]
        assert dance[2] == "UNIMPLEMENTED: no method 'dance'; there are: dispatch, dispatch_event, hooks, ping"
        assert len(peer.transport.writes) == 0

    run(scenario)


def test_answers_of_one_turn_are_one_write() -> None:
    async def scenario() -> None:
        peer = Peer(gateway_server(FakeRouter()))
        peer.send(*([0, n, "ping", []] for n in range(50)))
        await turn()
        assert len(peer.transport.writes) == 1
        assert len(await peer.answers()) == 50

    run(scenario)


def test_objects_and_answers_pass_through_unchanged() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router))
        peer.send([0, 7, "dispatch", [OBJECT]])
        (dispatch,) = router.taken
        assert (dispatch.kind, dispatch.body, dispatch.deadline_ns) == (Kind.OBJECT_MAP, msgpack.packb(OBJECT), 0)

        dispatch.answer(Kind.OBJECT_MAP, msgpack.packb(OBJECT))

        ((kind, call_id, error, result),) = await peer.answers()
        assert (kind, call_id, error, result) == (1, 7, None, OBJECT)
        assert type(result["session"]["rate"]) is float
        assert type(result["session"]["expires"]) is int

    run(scenario)


def test_an_event_is_answered_by_an_empty_map() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router))
        peer.send([0, 1, "dispatch_event", [{"payload": "{}"}]])
        assert router.taken[0].kind == Kind.EVENT_MAP
        router.taken[0].answer(Kind.EVENT_MAP, b"")
        assert await peer.answers() == [[1, 1, None, {}]]

    run(scenario)


def test_the_router_s_error_reaches_the_caller() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router))
        peer.send([0, 1, "dispatch", [OBJECT]])
        router.taken[0].fail(DispatchError(Status.NOT_FOUND, "no hook H"))
        assert await peer.answers() == [[1, 1, "NOT_FOUND: no hook H", None]]

    run(scenario)


@pytest.mark.parametrize(("seconds", "expected_ns"), [(1, 10**9), (0.25, 250_000_000), (None, 0), (1e-12, 1)])
def test_the_timeout_option(seconds: float | None, expected_ns: int) -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router))
        peer.send([0, 1, "dispatch", [OBJECT, {"timeout": seconds}]], [0, 2, "dispatch", [OBJECT, None]])
        assert [dispatch.deadline_ns for dispatch in router.taken] == [expected_ns, 0]
        assert router.taken[0].body == msgpack.packb(OBJECT)

    run(scenario)


@pytest.mark.parametrize(
    "params",
    [
        [], [1], ["object"], [None], [[]], [OBJECT, {}, {}], [OBJECT, 5], [OBJECT, {"speed": 1}],
        [OBJECT, {"timeout": 0}], [OBJECT, {"timeout": -1}], [OBJECT, {"timeout": "1"}], [OBJECT, {"timeout": True}],
        [OBJECT, {"timeout": float("nan")}], [OBJECT, {"timeout": float("inf")}],
        [OBJECT, {"timeout": 1, "x" * MAX_DECODED: 1}],
        [OBJECT, {"metadata": []}], [OBJECT, {"metadata": {"a": 1}}], [OBJECT, {"metadata": {"a": b"1"}}],
        [OBJECT, {"metadata": {"a-bin": "1"}}], [OBJECT, {"metadata": {"Upper": "1"}}],
        [OBJECT, {"metadata": {"": ""}}],
    ],
)  # fmt: skip
def test_wrong_params_fail_only_their_call(params: list[Any]) -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router))
        peer.send([0, 1, "dispatch", params], [0, 2, "ping", []])
        wrong, ping = await peer.answers()
        assert wrong[2].startswith("INVALID: ")
        assert ping == [1, 2, None, "pong"]
        assert router.taken == []

    run(scenario)


@pytest.mark.parametrize("body", [b"\x80\x80", b"\x81", b"\xc1", {"a": 1}])
def test_a_worker_cannot_shift_the_answers_of_others(body: Any) -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router))
        peer.send([0, 1, "dispatch", [OBJECT]])
        router.taken[0].answer(Kind.OBJECT_MAP, body)
        assert await peer.answers() == [[1, 1, "INTERNAL: the worker's answer is not one MessagePack value", None]]

    run(scenario)


def test_a_notification_runs_and_gets_no_answer() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router))
        peer.send([2, "dispatch_event", [{"payload": "{}"}]], [2, "dance", []], [2, "dispatch", [5]])
        router.taken[0].answer(Kind.EVENT_MAP, b"")
        assert await peer.answers() == []

    run(scenario)


def test_a_hang_up_cancels_calls_in_flight() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        server = gateway_server(router)
        peer = Peer(server)
        peer.send([0, 1, "dispatch", [OBJECT]], [0, 2, "dispatch", [OBJECT]])
        router.taken[0].answer(Kind.OBJECT_MAP, b"\x80")
        await peer.answers()
        peer.protocol.connection_lost(None)
        assert router.cancelled == [router.taken[1]]
        router.taken[1].answer(Kind.OBJECT_MAP, b"\x80")
        assert await peer.answers() == []
        assert not server.connections

    run(scenario)


def test_a_call_is_answered_once() -> None:
    replies: list[Reply] = []

    async def scenario() -> None:
        peer = Peer(server_of({"keep": keeping(replies)}))
        peer.send([0, 1, "keep", []])
        replies[0].answer(1)
        with pytest.raises(RuntimeError, match="answered before"):
            replies[0].fail(Status.INTERNAL, "again")
        assert await peer.answers() == [[1, 1, None, 1]]

    run(scenario)


def test_a_method_may_answer_later_or_raise() -> None:
    calls: list[tuple[list[Any], Reply]] = []

    def refuse(params: list[Any], reply: Reply) -> None:
        raise DispatchError(Status.UNAVAILABLE, "not now")

    async def scenario() -> None:
        peer = Peer(
            server_of(
                {"later": decoded(lambda params, reply: calls.append((params, reply))), "refuse": decoded(refuse)}
            )
        )
        peer.send([0, 1, "later", [b"b", "s", {"k": 1.0}]], [0, 2, "refuse", []])
        assert await peer.answers() == [[1, 2, "UNAVAILABLE: not now", None]]
        params, reply = calls[0]
        assert params == [b"b", "s", {"k": 1.0}]
        reply.answer({"done": True})
        assert await peer.answers() == [[1, 1, None, {"done": True}]]

    run(scenario)


def test_undecodable_params_fail_only_their_call() -> None:
    async def scenario() -> None:
        peer = Peer(gateway_server(FakeRouter()))
        peer.protocol.data_received(b"\x94\x00\x01\xa4ping\x91\xa1\xff")
        peer.send([0, 2, "ping", []])
        bad, good = await peer.answers()
        assert bad[2].startswith("INVALID: the params cannot be decoded")
        assert good == [1, 2, None, "pong"]

    run(scenario)


def test_a_result_that_msgpack_cannot_carry_is_an_internal_error() -> None:
    async def scenario() -> None:
        peer = Peer(server_of({"odd": decoded(lambda params, reply: reply.answer(object()))}))
        peer.send([0, 1, "odd", []])
        ((_, _, error, _),) = await peer.answers()
        assert error.startswith("INTERNAL: the result cannot be sent")

    run(scenario)


def test_a_refused_peer_still_gets_answers_in_flight() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router))
        peer.send([0, 1, "dispatch", [OBJECT]], [0, 2, "ping", "params"], [0, 3, "ping", []])
        (refusal,) = await peer.answers()
        assert refusal[1] == 2
        assert refusal[2].endswith("[2, method, params]: Expected `array`, got `str` - at `$[3]`")
        assert not peer.transport.ended
        router.taken[0].answer(Kind.OBJECT_MAP, b"\x80")
        assert await peer.answers() == [[1, 1, None, {}]]
        assert peer.transport.ended
        peer.send([0, 4, "ping", []])
        assert await peer.answers() == []
        peer.protocol.connection_lost(None)

    run(scenario)


def test_a_refused_peer_that_stays_is_cut_off() -> None:
    async def scenario() -> None:
        peer = Peer(gateway_server(FakeRouter(), RpcLimits(linger=0)))
        peer.protocol.data_received(b"\xc1")
        assert (await peer.answers())[0][:2] == [1, None]
        await until(lambda: peer.transport.aborted)

    run(scenario)


def test_reading_resumes_at_half_the_in_flight_limit() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        peer = Peer(gateway_server(router, RpcLimits(max_in_flight=4)))
        peer.send(*([0, n, "dispatch", [OBJECT]] for n in range(10)))
        assert len(router.taken) == 4
        assert peer.transport.paused
        router.taken[0].answer(Kind.OBJECT_MAP, b"\x80")
        await turn()
        assert len(router.taken) == 4
        router.taken[1].answer(Kind.OBJECT_MAP, b"\x80")
        await turn()
        assert len(router.taken) == 6
        for dispatch in router.taken[2:6]:
            dispatch.answer(Kind.OBJECT_MAP, b"\x80")
        await turn()
        for dispatch in router.taken[6:]:
            dispatch.answer(Kind.OBJECT_MAP, b"\x80")
        assert sorted(answer[1] for answer in await peer.answers()) == list(range(10))
        assert not peer.transport.paused

    run(scenario)


def test_reading_stops_at_the_limit_of_bytes_in_flight() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        size = len(msgpack.packb(OBJECT))
        peer = Peer(gateway_server(router, RpcLimits(max_in_flight_bytes=2 * size)))
        peer.send(*([0, n, "dispatch", [OBJECT]] for n in range(5)))
        assert len(router.taken) == 2
        router.taken[0].answer(Kind.OBJECT_MAP, b"\x80")
        await turn()
        assert len(router.taken) == 3

    run(scenario)


def test_nothing_is_read_from_a_peer_that_does_not_read() -> None:
    async def scenario() -> None:
        peer = Peer(gateway_server(FakeRouter()))
        peer.protocol.pause_writing()
        peer.send(*([0, n, "ping", []] for n in range(5)))
        assert await peer.answers() == []
        assert peer.transport.paused
        peer.protocol.resume_writing()
        assert len(await peer.answers()) == 5
        peer.protocol.connection_lost(None)

    run(scenario)


def test_only_a_peer_that_reads_nothing_is_cut_off() -> None:
    async def scenario() -> None:
        server = gateway_server(FakeRouter(), RpcLimits(write_timeout=0))
        slow, stuck = Peer(server), Peer(server)
        slow.transport.unread = stuck.transport.unread = 1000

        def read_some() -> int:
            slow.transport.unread -= 1
            return slow.transport.unread

        slow.transport.get_write_buffer_size = read_some  # type: ignore[method-assign]
        slow.protocol.pause_writing()
        stuck.protocol.pause_writing()
        for now in (0.0, 1.0, 2.0):
            server.connections.sweep(now)
        assert stuck.transport.aborted
        assert not slow.transport.aborted
        slow.protocol.connection_lost(None)

    run(scenario)


def test_large_answers_are_written_before_the_end_of_the_turn() -> None:
    async def scenario() -> None:
        peer = Peer(server_of({"big": decoded(lambda params, reply: reply.answer(b"x" * 100_000))}))
        peer.send(*([0, n, "big", []] for n in range(10)))
        assert [len(data) // 100_000 for data in peer.transport.writes] == [3, 3, 3, 1]
        assert len(await peer.answers()) == 10

    run(scenario)


def test_drain_closes_connections_after_their_last_answer() -> None:
    async def scenario() -> None:
        router = FakeRouter()
        server = gateway_server(router)
        idle, busy = Peer(server), Peer(server)
        busy.send([0, 1, "dispatch", [OBJECT]])
        server.drain()
        assert idle.transport.closed
        assert not busy.transport.closed
        busy.send([0, 2, "ping", []])
        router.taken[0].answer(Kind.OBJECT_MAP, b"\x80")
        assert await busy.answers() == [[1, 2, "UNAVAILABLE: the broker is shutting down", None], [1, 1, None, {}]]
        assert busy.transport.closed

    run(scenario)


def test_closed_waits_for_the_last_aborted_connection() -> None:
    async def scenario() -> None:
        server = gateway_server(FakeRouter())
        await server.connections.closed()
        peers = [Peer(server), Peer(server)]
        server.connections.abort()
        waiting = asyncio.ensure_future(server.connections.closed())
        for peer in peers:
            assert peer.transport.aborted
            assert not waiting.done()
            peer.protocol.connection_lost(None)
        await waiting

    run(scenario)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)
