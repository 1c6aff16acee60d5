"""Section 7: the connection between gateway and broker. A test that stops one of them starts its own."""

import concurrent.futures
import contextlib
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.gateway.gateway import Answer, Api, Background, RunningGateway
from tests.support.gateway.table import LARGE, Table, gateway_settings
from tests.support.gateway.tyk import any_gateway
from tests.support.hooks import SOURCE, Gate
from tests.support.peers.redis_server import RedisServer, free_port, running_redis
from tykpy.broker.config import BrokerConfig

MIB = 1024 * 1024
ADD_HEADER = {"driver": "grpc", "pre": [{"name": "add_header"}]}
GATED = {"driver": "grpc", "pre": [{"name": "gated"}]}


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[RedisServer]:
    """Run a Redis for one test."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        yield server


@contextlib.contextmanager
def gateway_at(address: str, folder: Path, keys: RedisServer, **config: object) -> Iterator[RunningGateway]:
    """Run a gateway that dials `address`."""
    folder.mkdir(exist_ok=True)
    with any_gateway(folder, address, **{"direct": True, **gateway_settings(keys), **config}) as gateway:
        yield gateway


def add(gateway: RunningGateway, middleware: Mapping[str, object], path: str = "/api/") -> Api:
    """Load an API without a bundle."""
    name = path.strip("/")
    return gateway.add_api({"api_id": name, "org_id": "org", "listen_path": path, "custom_middleware": middleware})


def worker_of(answer: Answer) -> str:
    """Return the process that ran `add_header`."""
    return answer.upstream.headers["X-Worker"][0]


def own_broker(folder: Path, *flags: str) -> RunningBroker:
    """Return a broker for one test, with the common hooks, which runs one call at a time: others wait."""
    broker = RunningBroker(folder, "--threads", "1", *flags)
    broker.add_file("hooks.py", SOURCE)
    return broker


@pytest.mark.harness("a real gateway starts, and refuses every call")
def test_a_bare_host_and_port_is_not_a_target(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first path segment in URL cannot contain colon"):
        RunningGateway(tmp_path, "127.0.0.1:5555").start()


def test_tcp_and_a_port_is_a_target(tmp_path: Path, keys: RedisServer) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with own_broker(tmp_path, "--listen", address), gateway_at(address, tmp_path / "gw", keys) as gateway:
        assert add(gateway, ADD_HEADER).send().status == 200


def test_calls_fail_at_once_without_a_broker_and_recover(tmp_path: Path, keys: RedisServer) -> None:
    broker = own_broker(tmp_path)
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(gateway_at(broker.address, tmp_path / "gw", keys))
        hooked = add(gateway, ADD_HEADER)
        guarded = add(gateway, {"driver": "grpc", "auth_check": {"name": "check_key"}}, "/guarded/")
        answer = hooked.send()
        assert (answer.status, answer.json) == (500, {"error": "Middleware error"})
        answer = guarded.send()
        assert (answer.status, answer.json) == (403, {"error": "Key not authorised"})
        stack.enter_context(broker)
        wait_until(lambda: hooked.send().status == 200, lambda: gateway.log)
        assert guarded.send(headers=[("Authorization", "secret")]).status == 200


def test_a_broker_restarts_while_the_gateway_keeps_calling(tmp_path: Path, keys: RedisServer) -> None:
    broker = own_broker(tmp_path)
    with broker, gateway_at(broker.address, tmp_path / "gw", keys) as gateway:
        api = add(gateway, ADD_HEADER)
        first = worker_of(api.send())
        for end in (signal.SIGTERM, signal.SIGKILL):
            assert broker.process is not None
            broker.process.send_signal(end)
            broker.wait()
            assert {api.send().status for _ in range(5)} == {500}
            broker.start().wait_ready()
            wait_until(lambda: api.send().status == 200, lambda: gateway.log)
            last = worker_of(api.send())
            assert last != first
            first = last


def test_a_gateway_restarts_while_the_broker_runs(tmp_path: Path, keys: RedisServer) -> None:
    with own_broker(tmp_path) as broker:
        workers = set()
        for _ in range(3):
            with gateway_at(broker.address, tmp_path / "gw", keys) as gateway:
                workers.add(worker_of(add(gateway, ADD_HEADER).send()))
        assert len(workers) == 1


def test_a_draining_broker_finishes_what_runs(tmp_path: Path, keys: RedisServer) -> None:
    gate = Gate(tmp_path)
    with own_broker(tmp_path) as broker, gateway_at(broker.address, tmp_path / "gw", keys) as gateway:
        under_way = Background(add(gateway, GATED), gate.headers())
        gate.wait_entered()
        assert broker.process is not None
        broker.process.send_signal(signal.SIGTERM)
        broker.wait_for_status(lambda text: "STOPPING=1" in text)
        gate.open()
        assert under_way.answer().status == 200
        assert broker.wait() == 0


def test_the_gateway_queues_what_is_above_max_concurrent_streams(tmp_path: Path, keys: RedisServer) -> None:
    gate = Gate(tmp_path)
    flags = ("--max-streams", "2", "--threads", "4")
    with (
        own_broker(tmp_path, *flags) as broker,
        gateway_at(broker.address, tmp_path / "gw", keys, direct=False) as gateway,
    ):
        api = add(gateway, GATED)
        under_way = [Background(api, gate.headers()) for _ in range(6)]
        gate.wait_entered(2)
        wait_until(lambda: len(api.dispatches()) == 6, lambda: "the gateway has all six")
        assert len(gate.entered) == 2
        gate.open()
        assert [request.answer().status for request in under_way] == [200] * 6


def test_a_full_queue_is_error_500_at_once(tmp_path: Path, keys: RedisServer) -> None:
    gate = Gate(tmp_path)
    with own_broker(tmp_path, "--queue-size", "1") as broker:
        with gateway_at(broker.address, tmp_path / "gw", keys) as gateway:
            api = add(gateway, GATED)
            under_way = [Background(api, gate.headers())]
            gate.wait_entered()
            under_way.append(Background(api, gate.headers()))
            wait_until(lambda: broker.status()["waiting"] == 1, lambda: str(broker.status()))
            assert api.send(headers=gate.headers()).status == 500
            assert "RESOURCE_EXHAUSTED" in gateway.log or "ResourceExhausted" in gateway.log
            gate.open()
            assert [request.answer().status for request in under_way] == [200, 200]


def test_a_client_that_hangs_up_cancels_hooks_not_yet_started(tmp_path: Path, keys: RedisServer) -> None:
    gate = Gate(tmp_path)
    with own_broker(tmp_path) as broker, gateway_at(broker.address, tmp_path / "gw", keys) as gateway:
        api = add(gateway, GATED)
        first = Background(api, gate.headers("first"))
        gate.wait_entered()
        connection = gateway.connect()
        connection.putrequest("GET", f"{api.path}/echo")
        for key, value in gate.headers("second"):
            connection.putheader(key, value)
        connection.endheaders()
        wait_until(lambda: broker.status()["waiting"] == 1, lambda: str(broker.status()))
        connection.close()
        wait_until(lambda: broker.status()["waiting"] == 0, lambda: str(broker.status()))
        gate.open()
        assert first.answer().status == 200
        assert api.send(headers=gate.headers("third")).status == 200
        assert [name for _, _, name in gate.entered] == ["first", "third"]


def test_by_default_the_gateway_refuses_answers_above_4_mib(tmp_path: Path, keys: RedisServer) -> None:
    unlimited = {"grpc_recv_max_size": 0, "grpc_send_max_size": 0}
    middleware: dict[str, object] = {"driver": "grpc", "post": [{"name": "same_body"}]}
    with own_broker(tmp_path) as broker:
        with gateway_at(broker.address, tmp_path / "gw", keys, **unlimited) as gateway:
            api = add(gateway, middleware)
            assert api.send("POST", body=b"x" * MIB).upstream.body == b"x" * MIB
            answer = api.send("POST", body=b"x" * (5 * MIB))
            assert (answer.status, answer.json) == (500, {"error": "Middleware error"})
            assert "received message larger than max" in gateway.log
            broker.wait_for_log("hook same_body: the gateway did not take an answer of")
            assert api.send("POST", body=b"x").upstream.body == b"x"


@pytest.mark.parametrize("size", [4 * MIB + 1, 12 * MIB])
def test_with_raised_limits_bodies_above_4_mib_go_both_ways(table: Table, size: int) -> None:
    body = bytes(range(256)) * (size // 256)
    assert size < LARGE
    received = table.api("changes", post=["pass_through"]).send("POST", body=body).upstream
    assert received.body == body


def test_text_of_the_default_limit_goes_both_ways(tmp_path: Path, keys: RedisServer) -> None:
    """Use the sizes of the documented `tyk.conf`."""
    largest = BrokerConfig().max_body
    with own_broker(tmp_path, "--timeout", "120") as broker:
        with gateway_at(broker.address, tmp_path / "gw", keys) as gateway:
            api = add(gateway, {"driver": "grpc", "post": [{"name": "same_body"}]})
            body = b"x" * largest
            assert api.send("POST", body=body).upstream.body == body
        assert broker.status()["too_large"] == {"requests": 0, "answers": 0, "abandoned": 0}


def test_a_request_above_the_brokers_own_limit_is_error_500(tmp_path: Path, keys: RedisServer) -> None:
    middleware: dict[str, object] = {"driver": "grpc", "post": [{"name": "same_body"}]}
    with own_broker(tmp_path, "--max-message", str(MIB)) as broker:
        with gateway_at(broker.address, tmp_path / "gw", keys) as gateway:
            api = add(gateway, middleware)
            assert api.send("POST", body=b"x" * (2 * MIB)).status == 500
            broker.wait_for_log("hook same_body: the request has 4194")
            assert api.send("POST", body=b"x").status == 200


def test_trace_metadata_new_in_every_call_changes_nothing(table: Table) -> None:
    api = table.api("changes", pre=["pass_through"])
    assert {api.send().status for _ in range(100)} == {200}


class Metadata(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers each call with its own request, and saves the call's metadata."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    def service(self, call: Any) -> grpc.RpcMethodHandler:
        """Return the handler of one call."""
        self.seen.append(dict(call.invocation_metadata))
        return grpc.unary_unary_rpc_method_handler(lambda message, context: message)


@pytest.mark.harness("a real gateway traces where OpenTelemetry is configured")
def test_the_gateway_of_these_tests_traces_every_call(tmp_path: Path, keys: RedisServer) -> None:
    metadata = Metadata()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        server = grpc.server(threads, handlers=[metadata])
        server.add_insecure_port(f"unix://{tmp_path}/s")
        server.start()
        with gateway_at(f"unix://{tmp_path}/s", tmp_path / "traced", keys) as gateway:
            api = add(gateway, ADD_HEADER)
            assert {api.send().status for _ in range(5)} == {200}
        server.stop(None).wait()
    traces = [call["traceparent"] for call in metadata.seen]
    assert len(set(traces)) == len(traces) == 5
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace) for trace in traces)
    assert all(call["tracestate"] for call in metadata.seen)


def test_unknown_fields_of_a_newer_gateway_survive(table: Table) -> None:
    config = {**table.gateway.config, "probe_unknown_fields": True}
    folder = table.folder / "newer"
    folder.mkdir()
    address = config.pop("coprocess_grpc_server")
    config = {key: value for key, value in config.items() if key not in ("responses", "bundle_source")}
    with any_gateway(folder, address, **config, bundle_source=str(table.folder)) as gateway:
        hooks = {"pre": ["pass_through"], "auth_check": "let_in", "post": ["pass_through"], "response": ["leave"]}
        api = table.api({"middleware.py": PASSES_EVERYTHING}, gateway=gateway, hooks=hooks)
        assert api.send().upstream.method == "GET"
        assert [kind for kind, _ in api.dispatches()] == ["Pre", "CustomKeyCheck", "Post", "Response"]


PASSES_EVERYTHING = """
from tyk.decorators import *
from tyk.decorators import Response

@Hook
def pass_through(request, session, spec):
    return request, session

@CustomKeyCheck
def let_in(request, session, metadata, spec):
    metadata["token"] = "newer"
    return request, session, metadata

@Response
def leave(request, response, session, metadata, spec):
    return response
"""


def test_many_requests_at_once_each_get_their_own_answer(table: Table) -> None:
    code = """
        import asyncio
        from tyk.decorators import *
        from tyk.decorators import Response

        @Pre
        async def say_number(request, session, spec):
            await asyncio.sleep(0)
            request.add_header("X-Said", request.get_header("X-Number"))
            return request, session

        @Post
        def append_number(request, session, spec):
            request.object.raw_body += request.get_header("X-Number").encode()
            return request, session

        @Response
        def leave(request, response, session, metadata, spec):
            response.headers["X-Number"] = request.get_header("X-Number")
            return response
        """
    hooks = {"pre": ["say_number"], "post": ["append_number"], "response": ["leave"]}
    api = table.api({"middleware.py": code}, hooks=hooks)
    numbers = [str(number) for number in range(400)]
    with concurrent.futures.ThreadPoolExecutor(16) as clients:
        answers = clients.map(lambda number: api.send("POST", headers=[("X-Number", number)], body=b"n="), numbers)
        for number, answer in zip(numbers, answers, strict=True):
            received = answer.upstream
            assert received.headers["X-Said"] == [number]
            assert (received.body.decode(), answer.value("X-Number")) == (f"n={number}", number)
