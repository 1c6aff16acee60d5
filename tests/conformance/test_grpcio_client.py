"""The real grpcio client, blocking and asyncio, against the gRPC front end."""

import asyncio
import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.support.peers.grpc_server import PATIENCE, EchoServer
from tykpy.broker.codes import ServingStatus
from tykpy.broker.grpc.health import BROKER_SERVICES
from tykpy.broker.http2.limits import MIB, Limits

DISPATCH = "/coprocess.Dispatcher/Dispatch"
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture(params=["unix", "tcp"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EchoServer]:
    address = f"unix://{tmp_path}/s" if request.param == "unix" else "tcp://127.0.0.1:0"
    with EchoServer(address) as running:
        yield running


@pytest.fixture
def channel(server: EchoServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target, options=UNLIMITED) as opened:
        yield opened


def dispatch(channel: grpc.Channel, method: str = DISPATCH) -> Any:
    return channel.unary_unary(method)


def failure(call: Any, *args: Any, **kwargs: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=PATIENCE, **kwargs)
    return caught.value


def test_a_call_is_answered(channel: grpc.Channel, server: EchoServer) -> None:
    assert dispatch(channel)(b"hello", timeout=PATIENCE) == b"hello"
    assert dispatch(channel, "/coprocess.Dispatcher/DispatchEvent")(b"", timeout=PATIENCE) == b""
    assert [call.kind for call in server.dispatcher.dispatched] == [1, 2]


def test_the_deadline_reaches_the_dispatcher(channel: grpc.Channel, server: EchoServer) -> None:
    dispatch(channel)(b"x", timeout=PATIENCE)
    dispatch(channel)(b"x")
    with_deadline, without = server.dispatcher.dispatched
    # grpcio rounds the remaining time up to three digits.
    assert PATIENCE * 0.5e9 < with_deadline.deadline_ns <= PATIENCE * 1.01e9
    assert without.deadline_ns == 0


def test_many_calls_at_once_each_get_their_own_answer(channel: grpc.Channel) -> None:
    bodies = [b"later:%d:" % number + bytes(number) for number in range(500)]
    calls = [dispatch(channel).future(body, timeout=PATIENCE) for body in bodies]
    assert [call.result() for call in calls] == bodies


def test_many_connections(server: EchoServer) -> None:
    def one(number: int) -> bytes:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.target, options=options) as channel:
            return bytes(dispatch(channel)(b"%d" % number, timeout=PATIENCE))

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(one, range(60))) == [b"%d" % number for number in range(60)]
    server.wait_until(lambda: len(server.grpc.connections) == 0)


def test_metadata_is_taken_and_ignored(channel: grpc.Channel) -> None:
    for number in range(100):
        metadata = [("traceparent", f"00-{number:032x}-{number:016x}-01"), ("some-bin", bytes(range(256)))]
        assert dispatch(channel)(b"x", metadata=metadata, timeout=PATIENCE) == b"x"


def test_metadata_of_many_frames(channel: grpc.Channel) -> None:
    metadata = [(f"key-{number}", "v" * 4000) for number in range(7)]
    assert dispatch(channel)(b"x", metadata=metadata, timeout=PATIENCE) == b"x"


def test_too_much_metadata_is_an_error_of_the_call_only(channel: grpc.Channel) -> None:
    """grpcio sends it although the server announces its limit."""
    error = failure(dispatch(channel), b"x", metadata=[(f"key-{n}", "v" * 4000) for n in range(12)])
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dispatch(channel)(b"x", timeout=PATIENCE) == b"x"


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_535, 65_536, 1 * MIB, 16 * MIB])
def test_messages_of_every_size_both_ways(channel: grpc.Channel, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert dispatch(channel)(body, timeout=PATIENCE) == body


def test_large_messages_share_a_connection_with_small_ones(channel: grpc.Channel) -> None:
    bodies = [b"later:" + bytes([number]) * (4 * MIB if number % 4 == 0 else 100) for number in range(16)]
    calls = [dispatch(channel).future(body, timeout=PATIENCE) for body in bodies]
    assert [call.result() for call in calls] == bodies


@pytest.mark.parametrize("compressed", [b"a" * 100_000, b"", bytes(range(256))])
def test_a_compressed_request(channel: grpc.Channel, compressed: bytes) -> None:
    answer = dispatch(channel)(compressed, compression=grpc.Compression.Gzip, timeout=PATIENCE)
    assert answer == compressed


def test_an_unknown_compression_is_refused_with_what_is_known(channel: grpc.Channel) -> None:
    error = failure(dispatch(channel), b"a" * 1000, compression=grpc.Compression.Deflate)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "identity, gzip" in error.details()


def test_a_compression_bomb_is_refused(tmp_path: Path) -> None:
    with EchoServer(f"unix://{tmp_path}/s", Limits(max_message=1 * MIB)) as server:
        bomb = bytes(8 * MIB)
        assert len(gzip.compress(bomb)) < 1 * MIB
        with grpc.insecure_channel(server.target, options=UNLIMITED) as channel:
            error = failure(dispatch(channel), bomb, compression=grpc.Compression.Gzip)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(1 * MIB) in error.details()


def test_a_message_above_the_limit_is_refused_saying_both_sizes(channel: grpc.Channel) -> None:
    error = failure(dispatch(channel), bytes(16 * MIB + 1))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(16 * MIB) in error.details()
    assert str(16 * MIB + 1) in error.details()
    assert dispatch(channel)(b"x", timeout=PATIENCE) == b"x"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("INVALID", grpc.StatusCode.INVALID_ARGUMENT),
        ("NOT_FOUND", grpc.StatusCode.NOT_FOUND),
        ("HOOK_FAILED", grpc.StatusCode.INTERNAL),
        ("EXPIRED", grpc.StatusCode.DEADLINE_EXCEEDED),
        ("TOO_LARGE", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("UNAVAILABLE", grpc.StatusCode.UNAVAILABLE),
        ("CANCELLED", grpc.StatusCode.CANCELLED),
        ("UNIMPLEMENTED", grpc.StatusCode.UNIMPLEMENTED),
        ("INTERNAL", grpc.StatusCode.INTERNAL),
    ],
)
def test_errors_have_their_code_and_any_text(tmp_path: Path, status: str, code: grpc.StatusCode) -> None:
    text = 'no hook "ä€𝄞" 100 %\n\ttry: %41'
    with EchoServer(f"unix://{tmp_path}/s") as server, grpc.insecure_channel(server.target) as channel:
        error = failure(dispatch(channel), f"fail:{status}:{text}".encode())
        assert (error.code(), error.details()) == (code, text)


def test_a_very_long_error_still_arrives(channel: grpc.Channel) -> None:
    error = failure(dispatch(channel), b"fail:INVALID:" + "ä".encode() * 100_000)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().endswith("...")


def test_unknown_methods_are_named(channel: grpc.Channel) -> None:
    error = failure(dispatch(channel, "/coprocess.Dispatcher/Nothing"), b"x")
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert DISPATCH in error.details()


def test_a_cancelled_call_is_taken_back(channel: grpc.Channel, server: EchoServer) -> None:
    call = dispatch(channel).future(b"hold:")
    server.wait_until(lambda: bool(server.dispatcher.held))
    assert call.cancel()
    server.wait_until(lambda: bool(server.dispatcher.cancelled))
    assert not server.dispatcher.held
    assert dispatch(channel)(b"x", timeout=PATIENCE) == b"x"


def test_a_deadline_that_passes_cancels_the_call(channel: grpc.Channel, server: EchoServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        dispatch(channel)(b"hold:", timeout=0.05)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait_until(lambda: len(server.dispatcher.cancelled) == len(server.dispatcher.dispatched))


def test_calls_of_a_connection_that_breaks_are_cancelled(server: EchoServer) -> None:
    channel = grpc.insecure_channel(server.target)
    calls = [dispatch(channel).future(b"hold:") for _ in range(20)]
    server.wait_until(lambda: len(server.dispatcher.held) == len(calls))
    channel.close()
    server.wait_until(lambda: len(server.grpc.connections) == 0)
    assert len(server.dispatcher.cancelled) == len(calls)


def test_a_streamed_request_has_to_have_one_message(channel: grpc.Channel) -> None:
    stream = channel.stream_unary(DISPATCH)
    assert stream(iter([b"one"]), timeout=PATIENCE) == b"one"
    for messages, said in (([], "no message"), ([b"one", b"two"], "more than one")):
        error = failure(stream, iter(messages))
        assert error.code() == grpc.StatusCode.INTERNAL
        assert said in error.details()


def test_draining_finishes_calls_and_ends_the_connection(channel: grpc.Channel, server: EchoServer) -> None:
    call = dispatch(channel).future(b"hold:1", timeout=PATIENCE)
    server.wait_until(lambda: bool(server.dispatcher.held))
    server.run(server.grpc.drain)
    assert len(server.grpc.connections) == 1
    server.run(server.dispatcher.release)
    assert call.result() == b"hold:1"
    server.wait_until(lambda: len(server.grpc.connections) == 0)


def test_health_reports_the_status_that_was_set(channel: grpc.Channel, server: EchoServer) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="coprocess.Dispatcher")
    assert health.Check(request, timeout=PATIENCE).status == health_pb2.HealthCheckResponse.NOT_SERVING
    server.run(server.grpc.health.set, dict.fromkeys(BROKER_SERVICES, ServingStatus.SERVING))
    assert health.Check(request, timeout=PATIENCE).status == health_pb2.HealthCheckResponse.SERVING
    unknown = health_pb2.HealthCheckRequest(service="nobody")
    assert failure(health.Check, unknown).code() == grpc.StatusCode.NOT_FOUND
    listed = health.List(health_pb2.HealthListRequest(), timeout=PATIENCE).statuses
    assert set(listed) == {"", "coprocess.Dispatcher"}


def test_health_can_be_watched(channel: grpc.Channel, server: EchoServer) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    seen = [next(watch).status]
    for status in (ServingStatus.SERVING, ServingStatus.SERVING, ServingStatus.NOT_SERVING):
        server.run(server.grpc.health.set, dict.fromkeys(BROKER_SERVICES, status))
    seen += [next(watch).status, next(watch).status]
    assert seen == [2, 1, 2]
    watch.cancel()
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE)
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_reflection_describes_the_services(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"coprocess.Dispatcher", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= services
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("coprocess.Dispatcher")
    assert [method.name for method in service.methods] == ["Dispatch", "DispatchEvent"]
    assert pool.FindMessageTypeByName("coprocess.Object").fields_by_name["spec"].number == 6
    assert pool.FindServiceByName("grpc.reflection.v1.ServerReflection").methods[0].input_type.fields


def test_reflection_answers_question_after_question(channel: grpc.Channel) -> None:
    request = reflection_pb2.ServerReflectionRequest
    questions = [
        request(file_containing_symbol="coprocess.Dispatcher.Dispatch"),
        request(file_by_filename="nothing.proto"),
        request(all_extension_numbers_of_type="coprocess.Object"),
        request(host="x"),
    ]
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = threading.Semaphore(0)

    def one_at_a_time() -> Iterator[Any]:
        for question in questions:
            yield question
            asked.acquire(timeout=PATIENCE)

    answers = []
    for answer in stub.ServerReflectionInfo(one_at_a_time(), timeout=PATIENCE):
        answers.append(answer)
        asked.release()
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "file_descriptor_response",
        "error_response",
        "all_extension_numbers_response",
        "error_response",
    ]
    assert [answer.original_request for answer in answers] == questions


@pytest.fixture(scope="module")
def grpc_aio() -> None:
    """Make grpcio open the descriptors of its event engine, which it never closes, before a test counts them."""

    async def call_nobody() -> None:
        async with grpc.aio.insecure_channel("unix:///nobody/listens/here") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(DISPATCH)(b"", timeout=PATIENCE)

    asyncio.run(call_nobody())


def test_the_asyncio_client(server: EchoServer, grpc_aio: None) -> None:
    async def calls() -> list[bytes]:
        async with grpc.aio.insecure_channel(server.target, options=UNLIMITED) as channel:
            call = channel.unary_unary(DISPATCH)
            bodies = [b"later:%d" % number for number in range(200)] + [bytes(MIB)]
            answers = await asyncio.gather(*(call(body, timeout=PATIENCE) for body in bodies))
            assert list(answers) == bodies
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"fail:NOT_FOUND:gone", timeout=PATIENCE)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            return list(answers)

    assert asyncio.run(calls())


def test_many_big_calls_at_once_on_one_connection(server: EchoServer, grpc_aio: None) -> None:
    """A gateway has one connection for all of its uploads; here all of them begin before one is complete."""

    async def calls() -> list[bytes]:
        async with grpc.aio.insecure_channel(server.target, options=UNLIMITED) as channel:
            call = channel.unary_unary(DISPATCH)
            bodies = [b"later:" + bytes([number]) * 3 * MIB for number in range(40)]
            answers = await asyncio.gather(*(call(body, timeout=PATIENCE) for body in bodies))
            assert list(answers) == bodies
            return list(answers)

    assert asyncio.run(calls())


@pytest.fixture(scope="module")
def new_uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Make libuv open its signal pipe, which it never closes, before a test counts descriptors."""
    uvloop = pytest.importorskip("uvloop")
    uvloop.new_event_loop().close()
    return cast(Callable[[], asyncio.AbstractEventLoop], uvloop.new_event_loop)


def test_on_uvloop(tmp_path: Path, new_uvloop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with (
        EchoServer(f"unix://{tmp_path}/s", new_loop=new_uvloop) as server,
        grpc.insecure_channel(server.target, options=UNLIMITED) as channel,
    ):
        for size in (0, 855, 16 * MIB):
            assert dispatch(channel)(bytes(size), timeout=PATIENCE) == bytes(size)
        call = dispatch(channel).future(b"hold:", timeout=PATIENCE)
        server.wait_until(lambda: bool(server.dispatcher.held))
        server.run(server.grpc.drain)
        server.run(server.dispatcher.release)
        assert call.result() == b"hold:"
        server.wait_until(lambda: len(server.grpc.connections) == 0)
