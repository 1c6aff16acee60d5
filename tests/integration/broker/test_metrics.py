"""Every metric exists and moves: one broker is called, crashed, hung, reloaded and overloaded."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.metrics import MeteredBroker
from tykpy.broker.errors import RpcError
from tykpy.broker.grpc.wire import GrpcCallError
from tykpy.broker.host.exits import ExitCode
from tykpy.client.grpc import GrpcClient
from tykpy.telemetry.live_segment import read_live_snapshot
from tykpy.telemetry.snapshot import OTHER, decode_snapshot

DOC: Final = Path(__file__).parents[3] / "docs" / "metrics.md"
HOOKS: Final = """
import os, time
from gateway import TykGateway as tyk
from tyk.decorators import Event, Pre

@Pre
def fine(request, session, spec):
    return request, session

@Pre
def raises(request, session, spec):
    raise ValueError("no")

@Pre(timeout=0.2)
def hangs(request, session, spec):
    time.sleep(3600)

@Pre
def crashes(request, session, spec):
    os._exit(7)

@Pre
def stores(request, session, spec):
    tyk.store_data("key", "value", 10)
    return request, session

@Event
def noted(event, spec):
    pass

@Event
def noted_badly(event, spec):
    raise ValueError("no")

@Pre
def triggers(request, session, spec):
    for name in ("noted", "noted_badly", "nobodys"):
        tyk.trigger_event(name, "")
    return request, session
"""
CALLED: Final = "hooks.py"
MANY_HOOKS: Final = """
from tyk.decorators import Pre

for number in range(700):
    def hook(request, session, spec):
        return request, session
    hook.__name__ = f"{number:03}{'語' * 250}"
    globals()[f"hook{number}"] = Pre(hook)
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeteredBroker]:
    folder = tmp_path_factory.mktemp("metrics")
    flags = (
        "--redis", f"unix://{folder}/nobody.sock", "--hang-grace", "0.1", "--max-requests", "60",
        "--event-log", "--event-webhook", "http://127.0.0.1:1/", "--event-grace", "0",
    )  # fmt: skip
    one = MeteredBroker(folder, *flags, workers=2)
    one.add_file(CALLED, HOOKS)
    with one:
        yield one


def fail(broker: MeteredBroker, hook: str, bundle: str = CALLED, number: int = 0) -> None:
    """Call a hook that fails; calls of different numbers are different dispatches."""
    with pytest.raises(GrpcCallError):
        broker.call(hook, bundle=bundle, headers=[("Number", str(number))])


@pytest.mark.parametrize(
    ("hook", "bundle", "code", "ran"),
    [
        ("fine", CALLED, "OK", True),
        ("raises", CALLED, "INTERNAL", True),
        ("hangs", CALLED, "DEADLINE_EXCEEDED", True),
        ("missing", "nowhere", "NOT_FOUND", False),
    ],
)
def test_outcomes_move_the_histograms(broker: MeteredBroker, hook: str, bundle: str, code: str, ran: bool) -> None:
    known = {"bundle": bundle, "hook": hook} if ran else {"bundle": "", "hook": ""}
    labels = {**known, "type": "Pre", "code": code}
    before = broker.scrape()
    if code == "OK":
        broker.call(hook, bundle=bundle)
    else:
        fail(broker, hook, bundle)
    broker.wait_for(
        "tykpy_dispatch_duration_seconds_count", before("tykpy_dispatch_duration_seconds_count", **labels), **labels
    )
    after = broker.scrape()
    for name in ("dispatch_duration", "queue_wait", *(["hook_duration"] if ran else [])):
        for part in ("count", "sum"):
            assert after(f"tykpy_{name}_seconds_{part}", **labels) > before(f"tykpy_{name}_seconds_{part}", **labels)
        assert after(f"tykpy_{name}_seconds_bucket", le="+Inf", **labels) == after(
            f"tykpy_{name}_seconds_count", **labels
        )
    if not ran:
        assert after("tykpy_hook_duration_seconds_count", **labels) == 0


def test_hangs_crashes_and_breakers_are_counted(broker: MeteredBroker) -> None:
    before = broker.scrape()
    fail(broker, "hangs")
    broker.wait_for("tykpy_worker_restarts_total", before("tykpy_worker_restarts_total", reason="hang"), reason="hang")
    for number in range(3):
        fail(broker, "crashes", number=number)
    broker.wait_for(
        "tykpy_worker_restarts_total", before("tykpy_worker_restarts_total", reason="crash") + 2, reason="crash"
    )
    fail(broker, "crashes", number=4)
    after = broker.scrape()
    assert after("tykpy_breaker_open", bundle=CALLED, hook="crashes") == 1
    assert after("tykpy_dispatches_rejected_total", reason="breaker_open") == 1
    assert after("tykpy_dispatch_duration_seconds_count", hook="crashes", code="INTERNAL") == 3
    assert after("tykpy_hook_duration_seconds_count", hook="crashes", code="INTERNAL") == 3


def test_requests_that_do_not_decode_are_rejected(broker: MeteredBroker) -> None:
    with GrpcClient(broker.address) as client, pytest.raises(GrpcCallError):
        client.call("/coprocess.Dispatcher/Dispatch", b"\xff")
    after = broker.scrape()
    assert after("tykpy_dispatches_rejected_total", reason="invalid") == 1
    assert after("tykpy_dispatch_duration_seconds_count", hook="", type="Unknown", code="INVALID_ARGUMENT") == 1


def test_recycled_workers_are_counted(broker: MeteredBroker) -> None:
    with GrpcClient(broker.address) as client:
        request = broker.object_for("fine", bundle=CALLED).SerializeToString()
        for _ in range(130):
            client.call("/coprocess.Dispatcher/Dispatch", request)
    broker.wait_for("tykpy_worker_restarts_total", 0, reason="recycle")
    after = broker.scrape()
    assert after("tykpy_worker_dispatches_total") >= 130
    assert after("tykpy_worker_busy_seconds_total") > 0


def test_reloads_are_counted_by_result(broker: MeteredBroker) -> None:
    before = broker.scrape()
    with broker.admin() as admin:
        admin.call("reload")
        broker.add_file(CALLED, "this is no Python")
        with pytest.raises(RpcError):
            admin.call("reload")
        broker.add_file(CALLED, HOOKS)
    after = broker.scrape()
    for result in ("ok", "refused"):
        assert after("tykpy_reload_total", result=result) == before("tykpy_reload_total", result=result) + 1
    assert (
        after("tykpy_worker_restarts_total", reason="reload")
        == before("tykpy_worker_restarts_total", reason="reload") + 2
    )


def test_a_store_that_is_down_shows(broker: MeteredBroker) -> None:
    broker.call("stores", bundle=CALLED)
    broker.wait_for("tykpy_store_errors_total", 0)
    after = broker.scrape()
    assert after("tykpy_store_up") == 0
    assert after("tykpy_store_operation_seconds_count", operation="store") >= 1
    assert after("tykpy_store_operation_seconds_sum", operation="store") > 0
    assert after("tykpy_store_operation_seconds_count", operation="fetch") == 0


def test_events_are_counted_by_sink_and_result(broker: MeteredBroker) -> None:
    broker.call("triggers", bundle=CALLED)
    for sink, result, count in (
        ("workers", "triggered", 3),
        ("handlers", "handled", 1),
        ("handlers", "failed", 1),
        ("handlers", "without_handler", 1),
        ("log", "delivered", 3),
        ("webhook", "retries", 1),
    ):
        broker.wait_for("tykpy_events_total", count - 1, sink=sink, result=result)
    after = broker.scrape()
    assert after("tykpy_events_total", sink="webhook", result="delivered") == 0
    assert after("tykpy_events_waiting", sink="webhook") == 3


def test_connections_streams_and_faults_are_counted(broker: MeteredBroker) -> None:
    with GrpcClient(broker.address) as client:
        client.call("/coprocess.Dispatcher/Dispatch", broker.object_for("fine", bundle=CALLED).SerializeToString())
        assert broker.scrape()("tykpy_connections", protocol="grpc") >= 1
    before = broker.scrape()("tykpy_http2_errors_total", code="PROTOCOL_ERROR")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(broker.socket))
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        broker.wait_for("tykpy_http2_errors_total", before, code="PROTOCOL_ERROR")


def test_workers_and_the_broker_are_described(broker: MeteredBroker) -> None:
    wait_until(lambda: broker.scrape()("tykpy_workers", state="ready") == 2, lambda: str(broker.status()))
    after = broker.scrape()
    assert after("tykpy_workers_wanted") == 2
    for worker in ("0", "1"):
        assert after("tykpy_worker_resident_memory_bytes", worker=worker) > 1_000_000
    assert after("tykpy_bundle_info", bundle=CALLED, state="loaded") == 1
    assert after("process_cpu_seconds_total") > 0
    assert [sorted(labels) for labels in after.labels_of("tykpy_build_info")] == [["python", "version"]]
    assert 0 <= after("tykpy_snapshot_age_seconds") < 3_600


def test_the_documented_metrics_are_those_that_exist(broker: MeteredBroker) -> None:
    broker.call("fine", bundle=CALLED)
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", DOC.read_text(), re.MULTILINE))
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in broker.scrape().families.values()
    }
    assert documented == exposed


def test_counters_of_many_hooks_never_fall(tmp_path: Path) -> None:
    """Also if the live segment has no room for all of them, and shows some of them together."""
    names = [f"{number:03}{'語' * 250}" for number in range(700)]
    with MeteredBroker(tmp_path) as broker:
        broker.add_file("many.py", MANY_HOOKS)
        with broker.admin() as admin:
            admin.call("reload")
        with GrpcClient(broker.address) as client:

            def call(name: str) -> None:
                request = broker.object_for(name, bundle="many.py").SerializeToString()
                client.call("/coprocess.Dispatcher/Dispatch", request)

            for name in names:
                call(name)
            call(names[0])
        with broker.admin() as admin:
            # What /metrics is made of; a page of so many long names would take seconds.
            seen = decode_snapshot(admin.call("snapshot"))
        assert {one.hook: one.count for one in seen.series} == dict.fromkeys(names, 1) | {names[0]: 2}

        def shown_together() -> bool:
            last = read_live_snapshot(broker.runtime)
            return last is not None and OTHER in {one.hook for one in last.snapshot.series}

        wait_until(shown_together, lambda: str(read_live_snapshot(broker.runtime)))


def test_an_upgrade_hands_the_socket_over(tmp_path: Path) -> None:
    with MeteredBroker(tmp_path) as broker:
        os.kill(broker.pid, signal.SIGUSR2)
        message = broker.wait_for_status(lambda text: text.startswith("MAINPID="))
        successor = psutil.Process(int(message.removeprefix("MAINPID=")))
        assert broker.wait() == 0
        wait_until(lambda: broker.scrape()("tykpy_workers", state="ready") == 1, lambda: broker.log)
        successor.terminate()
        successor.wait(30)
        assert not broker.http_socket.exists()


def test_an_address_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with RunningBroker(tmp_path, "--metrics", f"tcp://127.0.0.1:{port}").unready() as broker:
            assert broker.wait() == ExitCode.CANNOT_LISTEN
            assert f"tcp://127.0.0.1:{port} is in use by" in broker.log
