"""Traces of real brokers, as a real OTLP collector receives them."""

import concurrent.futures
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from prometheus_client.openmetrics import parser as openmetrics

from tests.support.broker import RunningBroker, wait_until
from tests.support.metrics import UnixHttp
from tests.support.peers.collector import Collector, running_collector
from tests.support.peers.redis_server import RedisServer, free_port, running_redis
from tests.support.root import ROOT
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.broker.codes import GrpcCode
from tykpy.broker.host.exits import ExitCode
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.client.rpc import RpcClient
from tykpy.commands.objects import CallDescription, build_object

SERVER: Final = 2
"""SPAN_KIND_SERVER of OTLP."""
DISPATCH: Final = "coprocess.Dispatcher/Dispatch"
HOOKS: Final = """
import asyncio, os, time
from opentelemetry import trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
import redis
from tyk import store
from tyk.decorators import Event, Post, Pre
from gateway import TykGateway as tyk

RedisInstrumentor().instrument()
cache = redis.Redis(unix_socket_path="@REDIS@")

def show(request):
    context = trace.get_current_span().get_span_context()
    request.add_header("Trace", f"{context.trace_id:032x}")
    request.add_header("Span", f"{context.span_id:016x}")
    request.add_header("State", context.trace_state.to_header())

@Pre
def shows(request, session, spec):
    time.sleep(0.001)
    show(request)
    return request, session

@Pre
async def shows_async(request, session, spec):
    await asyncio.sleep(0.001)
    show(request)
    await asyncio.create_task(nested())
    return request, session

async def nested():
    with trace.get_tracer("plugin").start_as_current_span("task"):
        pass

@Pre
def stores(request, session, spec):
    tyk.store_data("key", "value")
    tyk.get_data("key")
    return request, session

@Pre
def counts(request, session, spec):
    store.incr("number")
    return request, session

@Pre
def asks(request, session, spec):
    cache.get("key")
    return request, session

@Pre
def fails(request, session, spec):
    raise ValueError("no " + "x" * 5000)

@Pre
def crashes(request, session, spec):
    os._exit(3)

@Pre(timeout=0.05)
async def waits(request, session, spec):
    await asyncio.sleep(60)

@Post
def first(request, session, spec):
    return request, session

@Post
def second(request, session, spec):
    return request, session

@Event
def handles(event, spec):
    pass
"""


PAGE: Final = (ROOT / "docs" / "tracing.md").read_text()
QUICK: Final = """
from tyk.decorators import Pre

@Pre
def quick(request, session, spec):
    return request, session
"""


class Parent(NamedTuple):
    """A span of a caller, of a trace of its own."""

    trace_id: str
    span_id: str
    flags: str

    @property
    def header(self) -> str:
        """Its `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers of a request that continues it, as Go writes their names."""
        return [("Accept", "*/*"), ("Traceparent", self.header), ("X-Traceparent", "x" * 55)]


def new_parent(flags: str = "01") -> Parent:
    return Parent(secrets.token_hex(16), secrets.token_hex(8), flags)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def broker(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector, redis: RedisServer
) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("broker")
    flags = ("--redis", redis.url, "--threads", "4")
    broker = RunningBroker(folder, *flags, env=collector.env)
    broker.add_flags(
        "--metrics",
        f"unix://{broker.runtime}/http.sock",
        "--listen",
        broker.address,
        "--listen",
        f"msgpack+unix://{broker.runtime}/rpc.sock",
        "--access-log",
        "errors",
    )
    broker.add_file("hooks.py", HOOKS.replace("@REDIS@", str(redis.socket)))
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    broker.add_file("example.py", example)
    with broker:
        yield broker


def call(
    broker: RunningBroker, hook: str, *, metadata: Mapping[str, str] | None = None, **description: Any
) -> Mapping[str, str]:
    """Call a hook; return the headers that it set."""
    obj = build_object(CallDescription(hook, **description))
    with GrpcClient(broker.address) as client:
        answer = client.call("/" + DISPATCH, obj.SerializeToString(), timeout=30, metadata=metadata)
    return type(obj).FromString(answer).request.set_headers


def failed(broker: RunningBroker, hook: str, parent: Parent, **description: Any) -> GrpcCode:
    with pytest.raises(GrpcCallError) as caught:
        call(broker, hook, headers=parent.headers, **description)
    return caught.value.code


def test_spans_of_a_dispatch_nest(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    call(broker, "stores", headers=parent.headers, spec={"APIID": "api-1"})
    spans = collector.trace(parent.trace_id, DISPATCH, "queue", "hook stores", "store_data", "get_data")
    dispatch, queue, hook = spans[DISPATCH], spans["queue"], spans["hook stores"]
    assert (dispatch.parent_id, dispatch.kind) == (parent.span_id, SERVER)
    assert queue.parent_id == hook.parent_id == dispatch.span_id
    assert spans["store_data"].parent_id == spans["get_data"].parent_id == hook.span_id
    assert dispatch.start_ns == queue.start_ns <= queue.end_ns <= hook.start_ns < hook.end_ns <= dispatch.end_ns
    assert {span.error for span in spans.values()} == {None}


def test_operations_of_the_store_have_spans(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    call(broker, "counts", headers=parent.headers)
    spans = collector.trace(parent.trace_id, "hook counts", "store incr")
    assert spans["store incr"].parent_id == spans["hook counts"].span_id


def test_spans_say_what_was_called(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    call(broker, "stores", headers=parent.headers, spec={"APIID": "api-1"})
    spans = collector.trace(parent.trace_id, DISPATCH, "hook stores", "get_data")
    assert spans[DISPATCH].attributes == {
        "rpc.system": "grpc",
        "rpc.service": "coprocess.Dispatcher",
        "rpc.method": "Dispatch",
        "rpc.grpc.status_code": 0,
        "tykpy.bundle": "hooks.py",
        "tykpy.hook": "stores",
        "tykpy.hook_type": "Pre",
        "tykpy.api_id": "api-1",
        "tykpy.worker": 0,
        "tykpy.attempts": 1,
    }
    assert spans["hook stores"].attributes == {
        "tykpy.bundle": "hooks.py",
        "tykpy.hook": "stores",
        "tykpy.hook_type": "Pre",
        "tykpy.worker": 0,
    }
    assert spans["get_data"].attributes == {"db.system.name": "redis"}
    resources = [spans[name].resource for name in (DISPATCH, "hook stores")]
    assert [one["service.name"] for one in resources] == ["tykpy", "tykpy"]
    assert [one["tykpy.process"] for one in resources] == ["broker", "worker 0"]


def test_trace_of_grpc_metadata_wins(broker: RunningBroker, collector: Collector) -> None:
    parent, other = new_parent(), new_parent()
    metadata = {"traceparent": parent.header, "tracestate": "vendor=1"}
    seen = call(broker, "shows", headers=other.headers, metadata=metadata)
    spans = collector.trace(parent.trace_id, DISPATCH, "hook shows")
    assert (spans[DISPATCH].parent_id, spans[DISPATCH].state) == (parent.span_id, "vendor=1")
    assert (seen["Trace"], seen["Span"], seen["State"]) == (parent.trace_id, spans["hook shows"].span_id, "vendor=1")


@pytest.mark.parametrize("name", ["Traceparent", "traceparent"])
def test_trace_of_a_request_header_goes_on(broker: RunningBroker, collector: Collector, name: str) -> None:
    parent = new_parent()
    headers = [(name, parent.header), (name.replace("parent", "state"), "vendor=1")]
    assert call(broker, "shows", headers=headers)["State"] == "vendor=1"
    assert collector.trace(parent.trace_id, DISPATCH)[DISPATCH].parent_id == parent.span_id


@pytest.mark.parametrize("in_metadata", [True, False])
def test_trace_of_a_messagepack_call_goes_on(broker: RunningBroker, collector: Collector, in_metadata: bool) -> None:
    parent = new_parent()
    headers = {} if in_metadata else {"Traceparent": parent.header, "Tracestate": "vendor=1"}
    options = {"metadata": {"traceparent": parent.header}} if in_metadata else {}
    obj = {"hook_type": "Pre", "hook_name": "shows", "request": {"headers": headers}}
    with RpcClient(broker.runtime / "rpc.sock") as client:
        answer = client.call("dispatch", obj, options)
    assert answer["request"]["set_headers"]["Trace"] == parent.trace_id
    dispatch = collector.trace(parent.trace_id, DISPATCH)[DISPATCH]
    assert (dispatch.parent_id, dispatch.attributes["rpc.system"]) == (parent.span_id, "msgpack-rpc")
    assert dispatch.state == ("" if in_metadata else "vendor=1")


@pytest.mark.parametrize("header", ["", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "no trace" * 10])
def test_without_a_valid_parent_a_trace_begins(broker: RunningBroker, collector: Collector, header: str) -> None:
    trace_id = call(broker, "shows", headers=[("Traceparent", header)])["Trace"]
    assert collector.trace(trace_id, DISPATCH)[DISPATCH].parent_id == ""


@pytest.mark.parametrize("hook", ["shows", "shows_async"])
def test_calls_at_the_same_time_keep_their_traces(broker: RunningBroker, collector: Collector, hook: str) -> None:
    parents = [new_parent() for _ in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda parent: call(broker, hook, headers=parent.headers), parents))
    for parent, headers in zip(parents, seen, strict=True):
        assert headers["Trace"] == parent.trace_id
        assert headers["Span"] == collector.trace(parent.trace_id, f"hook {hook}")[f"hook {hook}"].span_id


def test_a_task_of_an_async_hook_is_in_its_trace(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    call(broker, "shows_async", headers=parent.headers)
    spans = collector.trace(parent.trace_id, "hook shows_async", "task")
    assert spans["task"].parent_id == spans["hook shows_async"].span_id


def test_instrumented_redis_nests_below_the_hook(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    call(broker, "asks", headers=parent.headers)
    spans = collector.trace(parent.trace_id, "hook asks", "GET")
    assert spans["GET"].parent_id == spans["hook asks"].span_id


def test_instrumented_redis_nests_below_the_storage(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    call(broker, "stores", headers=parent.headers)
    spans = collector.trace(parent.trace_id, "store_data", "SET", "get_data", "GET")
    assert spans["SET"].parent_id == spans["store_data"].span_id
    assert spans["GET"].parent_id == spans["get_data"].span_id


def test_the_example_of_the_docs_nests(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    call(broker, "check_quota", headers=parent.headers)
    spans = collector.trace(parent.trace_id, "hook check_quota", "check")
    assert spans["check"].parent_id == spans["hook check_quota"].span_id


def test_each_hook_of_a_chain_has_a_span(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    call(broker, "*", hook_type="Post", headers=parent.headers)
    spans = collector.trace(parent.trace_id, DISPATCH, "hook first", "hook second")
    assert spans["hook first"].parent_id == spans["hook second"].parent_id == spans[DISPATCH].span_id
    assert spans["hook first"].end_ns <= spans["hook second"].start_ns


def test_an_event_has_a_trace(broker: RunningBroker, collector: Collector) -> None:
    parent, method = new_parent(), "coprocess.Dispatcher/DispatchEvent"
    event = Event(payload='{"handler_name": "handles", "message": {}}')
    with GrpcClient(broker.address) as client:
        client.call("/" + method, event.SerializeToString(), timeout=30, metadata={"traceparent": parent.header})
    spans = collector.trace(parent.trace_id, method, "hook handles")
    assert spans["hook handles"].parent_id == spans[method].span_id


def test_a_failed_hook_is_an_error_of_both_spans(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    code = failed(broker, "fails", parent)
    spans = collector.trace(parent.trace_id, DISPATCH, "hook fails")
    assert "ValueError: no xx" in (spans[DISPATCH].error or "")
    assert spans[DISPATCH].attributes["rpc.grpc.status_code"] == code == GrpcCode.INTERNAL
    hook = spans["hook fails"]
    assert (hook.error or "").startswith("ValueError: no xx")
    assert hook.attributes["error.type"] == hook.events["exception"]["exception.type"] == "ValueError"
    assert 'in fails\n    raise ValueError("no "' in hook.events["exception"]["exception.stacktrace"]
    assert max(len(span.error or "") for span in spans.values()) <= 1024


def test_the_access_log_names_the_span(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    failed(broker, "fails", parent)
    span = collector.trace(parent.trace_id, DISPATCH)[DISPATCH]
    broker.wait_for_log(f"trace_id={parent.trace_id} span_id={span.span_id}")


def test_an_unknown_hook_is_an_error_without_a_hook(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    assert failed(broker, "x" * 5000, parent) == GrpcCode.NOT_FOUND
    spans = collector.trace(parent.trace_id, DISPATCH, "queue")
    assert spans[DISPATCH].attributes["error.type"] == "NOT_FOUND"
    assert len(spans[DISPATCH].attributes["tykpy.hook"]) == 1024
    assert "tykpy.bundle" not in spans[DISPATCH].attributes


def test_a_deadline_is_an_error_of_both_spans(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    assert failed(broker, "waits", parent) == GrpcCode.DEADLINE_EXCEEDED
    spans = collector.trace(parent.trace_id, DISPATCH, "hook waits")
    assert spans[DISPATCH].attributes["error.type"] == "DEADLINE_EXCEEDED"
    assert spans["hook waits"].error is not None


def test_a_dispatch_whose_worker_dies_has_a_span(broker: RunningBroker, collector: Collector) -> None:
    parent = new_parent()
    assert failed(broker, "crashes", parent) != GrpcCode.OK
    dispatch = collector.trace(parent.trace_id, DISPATCH, "queue")[DISPATCH]
    assert dispatch.error is not None
    assert (dispatch.attributes["tykpy.worker"], dispatch.attributes["tykpy.attempts"]) == (0, 1)
    assert call(broker, "shows")  # there is another worker before the next test begins


def test_nothing_of_an_unsampled_trace_is_exported(broker: RunningBroker, collector: Collector) -> None:
    unsampled, sampled = new_parent("00"), new_parent()
    for hook in ("stores", "asks", "shows_async"):
        call(broker, hook, headers=unsampled.headers)
        call(broker, hook, headers=sampled.headers)
    collector.trace(sampled.trace_id, DISPATCH, "GET", "task", "hook stores")
    assert unsampled.trace_id not in {span.trace_id for span in collector.spans}
    assert {span.name for span in collector.spans if not span.parent_id} <= {DISPATCH}, "a library began a trace"


def exemplars(broker: RunningBroker) -> set[tuple[str, str, str]]:
    """Return hook, code and trace of each exemplar of `/metrics`."""
    page = UnixHttp(broker.runtime / "http.sock")
    text = page.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}).read().decode()
    page.close()
    return {
        (sample.labels["hook"], sample.labels["code"], sample.exemplar.labels["trace_id"])
        for family in openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_metrics_show_traces_as_exemplars(broker: RunningBroker) -> None:
    unsampled, sampled, failing = new_parent("00"), new_parent(), new_parent()
    call(broker, "shows", headers=unsampled.headers)
    call(broker, "stores", headers=sampled.headers)
    failed(broker, "fails", failing)
    expected = {("stores", "OK", sampled.trace_id), ("fails", "INTERNAL", failing.trace_id)}
    wait_until(lambda: expected <= exemplars(broker), lambda: f"{expected}; there are {exemplars(broker)}")
    assert unsampled.trace_id not in {trace_id for _, _, trace_id in exemplars(broker)}


def test_a_storage_that_fails_is_an_error(broker: RunningBroker, collector: Collector, redis: RedisServer) -> None:
    redis.pause()
    try:
        for _ in range(2):  # asked, and not asked again so soon
            parent = new_parent()
            call(broker, "stores", headers=parent.headers)
            assert collector.trace(parent.trace_id, "get_data")["get_data"].error is not None
    finally:
        redis.resume()


def test_the_docs_name_every_attribute(collector: Collector) -> None:
    """After the tests above: of all that they have exported."""
    ours = [span for span in collector.spans if span.name in (DISPATCH, "get_data") or span.name.startswith("hook ")]
    assert ours
    named = {name for span in ours for name in (*span.attributes, *span.events)}
    assert [name for name in sorted(named) if f"`{name}`" not in PAGE] == []


def test_remaining_spans_are_exported_at_the_end(tmp_path: Path, collector: Collector) -> None:
    parent, skipped = new_parent(), new_parent("00")
    env = {
        **collector.env,
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }
    broker = RunningBroker(tmp_path, env=env)
    broker.add_file("hooks.py", QUICK)
    with broker:
        before = len(collector.spans)
        call(broker, "quick")
        call(broker, "quick", headers=skipped.headers)
        call(broker, "quick", headers=parent.headers)
        assert len(collector.spans) == before
        assert broker.stop() == ExitCode.OK
    ours = collector.spans[before:]
    assert sorted(span.name for span in ours) == [DISPATCH, "hook quick", "queue"]
    assert {(span.trace_id, span.resource["service.name"]) for span in ours} == {(parent.trace_id, "mine")}


def test_a_collector_that_hangs_costs_only_spans(tmp_path: Path) -> None:
    with running_collector() as collector:
        env = {
            **collector.env,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        broker = RunningBroker(tmp_path, env=env)
        broker.add_file("hooks.py", QUICK)
        collector.answers.clear()
        with broker:
            call(broker, "quick")
            wait_until(lambda: collector.requests >= 2, lambda: "an export of broker and worker")
            for _ in range(50):
                call(broker, "quick")
            broker.wait_for_log("Queue full")
            assert broker.stop() == ExitCode.OK


def test_a_collector_that_is_down_is_reported_once(tmp_path: Path) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:secret@127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
    }
    broker = RunningBroker(tmp_path, env=env)
    broker.add_file("hooks.py", QUICK)
    with broker:
        call(broker, "quick")
        broker.wait_for_log("tykpy.tracing: Failed to export span")
        assert broker.stop() == ExitCode.OK
        assert "secret" not in broker.log


MISSING: Final = 'raise ModuleNotFoundError("hidden by a test")\n'


@pytest.fixture
def without_extra(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a broker that does not find OpenTelemetry."""
    package = tmp_path / "hidden" / "opentelemetry"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MISSING)
    path = os.pathsep.join([str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def test_tracing_on_without_the_extra_says_what_to_do(tmp_path: Path, without_extra: dict[str, str]) -> None:
    with RunningBroker(tmp_path, "--tracing", "on", env=without_extra).unready() as broker:
        assert broker.wait() == ExitCode.USAGE
        assert "--tracing on: OpenTelemetry is not installed: pip install 'tykpy[otel]'" in broker.log


def test_without_the_extra_a_broker_serves_untraced(tmp_path: Path, without_extra: dict[str, str]) -> None:
    with RunningBroker(tmp_path, env=without_extra) as broker:
        assert "tracing is off: OpenTelemetry is not installed: pip install 'tykpy[otel]'" in broker.log
