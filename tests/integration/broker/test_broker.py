"""A gateway's calls through a real broker and real workers: every hook type and every kind of failure."""

import concurrent.futures
import contextlib
import grp
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE, Gate
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import build_event

MIB = 1024 * 1024
WAITS_TOO_LONG = """
@Pre(timeout=0.2)
async def waits_too_long(request, session, spec):
    await asyncio.Event().wait()
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One broker with two workers, shared by the tests that do not end them."""
    with running_broker(tmp_path_factory.mktemp("broker"), workers=2, files={"hooks.py": SOURCE}) as running:
        yield running


def code_of(call: Any) -> str:
    with pytest.raises(GrpcCallError) as caught:
        call()
    return f"{caught.value.code.name}: {caught.value.message}"


def test_many_gateways_may_connect_while_the_broker_is_busy(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={}) as broker, contextlib.ExitStack() as stack:
        os.kill(broker.pid, signal.SIGSTOP)
        stack.callback(os.kill, broker.pid, signal.SIGCONT)
        for _ in range(500):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            sock.connect(str(broker.socket))


def test_a_pre_hook_changes_the_request(broker: RunningBroker) -> None:
    answer = broker.call("add_header", bundle="hooks")
    worker_pids = {str(worker["pid"]) for worker in broker.status()["workers"]}
    assert answer.request.set_headers["X-Worker"] in worker_pids


def test_an_auth_hook_lets_in_and_keeps_out(broker: RunningBroker) -> None:
    call: dict[str, Any] = {"hook_type": "CustomKeyCheck", "bundle": "hooks"}
    good = broker.call("check_key", headers=[("Authorization", "secret")], **call)
    assert (good.session.rate, good.session.metadata["token"]) == (1000.0, "secret")
    bad = broker.call("check_key", **call)
    assert bad.request.return_overrides.response_code == 401
    assert bad.request.return_overrides.response_error == "who are you?"


def test_a_post_key_auth_hook_sees_the_session(broker: RunningBroker) -> None:
    answer = broker.call("tag", hook_type="PostKeyAuth", bundle="hooks", session={"alias": "me"})
    assert answer.request.set_headers["X-Alias"] == "me"


def test_a_response_hook_changes_the_response(broker: RunningBroker) -> None:
    answer = broker.call("stamp", hook_type="Response", bundle="hooks", response_body=b"body")
    assert (answer.response.raw_body, answer.response.headers["X-Stamp"]) == (b"changed body", "stamped")


def test_an_event_reaches_its_handler_and_the_store_is_shared(broker: RunningBroker) -> None:
    broker.send_event(build_event("on_failure", {"Type": "AuthFailure", "Meta": {}}, {}))
    for _ in range(4):
        answer = broker.call("last_event", bundle="hooks")
        assert answer.request.set_headers["Last-Event"] == "AuthFailure"


def test_what_one_worker_stores_all_can_read(broker: RunningBroker) -> None:
    broker.call("store", bundle="hooks", headers=[("Value", "shared")])
    assert broker.call("load", bundle="hooks").request.set_headers["Value"] == "shared"


def test_without_a_bundle_a_hook_is_found_by_its_name(broker: RunningBroker) -> None:
    assert "X-Worker" in broker.call("add_header").request.set_headers


def test_an_unknown_hook_is_named_with_what_there_is(broker: RunningBroker) -> None:
    error = code_of(lambda: broker.call("nothing", bundle="hooks"))
    assert error.startswith("NOT_FOUND")
    assert "nothing" in error
    assert "add_header" in error


def test_an_unknown_bundle_is_named_with_what_there_is(broker: RunningBroker) -> None:
    error = code_of(lambda: broker.call("add_header", bundle="other.zip"))
    assert error.startswith("NOT_FOUND")
    assert "hooks" in error


@pytest.mark.parametrize("body", [b"\x0a\xff", b"\x1a\x02\x0a\x7f", b"\xff" * 40])
def test_an_undecodable_object_is_an_invalid_argument(broker: RunningBroker, body: bytes) -> None:
    with GrpcClient(broker.address) as client:
        error = code_of(lambda: client.call("/coprocess.Dispatcher/Dispatch", body, timeout=30))
    assert error.startswith("INVALID_ARGUMENT")


def test_another_method_is_unimplemented(broker: RunningBroker) -> None:
    with GrpcClient(broker.address) as client:
        assert code_of(lambda: client.call("/other.Service/Method", b"", timeout=30)).startswith("UNIMPLEMENTED")


def test_an_exception_is_answered_and_its_traceback_logged(broker: RunningBroker) -> None:
    """The answer names the exception, the hook and its bundle."""
    error = code_of(lambda: broker.call("raises", bundle="hooks"))
    assert error.startswith("INTERNAL")
    for part in ("ValueError", "of no use", "raises", "hooks"):
        assert part in error
    broker.wait_for_log("ValueError: of no use")
    assert 'raise ValueError("of no use")' in broker.log


def test_sys_exit_in_a_hook_costs_that_call_only(broker: RunningBroker) -> None:
    before = {worker["pid"] for worker in broker.status()["workers"]}
    assert code_of(lambda: broker.call("leaves", bundle="hooks")).startswith("INTERNAL")
    assert {worker["pid"] for worker in broker.status()["workers"]} == before


def test_a_wrong_return_value_is_reported(broker: RunningBroker) -> None:
    error = code_of(lambda: broker.call("wrong_return", bundle="hooks"))
    assert error.startswith("INTERNAL")
    assert "wrong_return" in error


def test_what_a_plugin_prints_is_in_the_log(broker: RunningBroker) -> None:
    broker.call("prints", bundle="hooks")
    for line in ("a line from the plugin", "another, to standard error", "and one behind Python's back"):
        broker.wait_for_log(line)


@pytest.mark.parametrize("size", [0, 1, 60_000, 7 * MIB])
def test_bodies_of_any_size_go_both_ways(broker: RunningBroker, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    answer = broker.call("grow", hook_type="Post", bundle="hooks", body=body[:size])
    assert answer.request.raw_body == body[:size] * 2


def test_a_16_mib_message_goes_both_ways(broker: RunningBroker) -> None:
    obj = Object(hook_name="same_body", hook_type=2)  # type: ignore[arg-type]
    obj.request.raw_body = b"x" * (16 * MIB - 100)
    obj.request.return_overrides.response_code = -1
    assert len(broker.dispatch(obj).request.raw_body) == 16 * MIB - 100


def test_a_chain_runs_all_hooks_of_its_type_in_one_dispatch(tmp_path: Path) -> None:
    source = """
from tyk.decorators import Pre
@Pre
def one(request, session, spec):
    request.add_header("Seen", "one")
    return request, session
@Pre
def two(request, session, spec):
    request.add_header("Seen", request.get_header("Seen") + ",two")
    return request, session
"""
    with running_broker(tmp_path, files={"chain.py": source}) as broker:
        assert broker.call("*", bundle="chain").request.set_headers["Seen"] == "one,two"


def test_an_async_hook_leaves_its_worker_free_for_many_more(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(4) as callers,
    ):
        calls = [callers.submit(broker.call, "gated_async", bundle="hooks", headers=gate.headers()) for _ in range(4)]
        entered = gate.wait_entered(4)
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        gate.open()
        assert all(call.result() for call in calls)
    assert len({pid for pid, _, _ in entered}) == 1


def test_threads_let_one_worker_run_several_hooks_at_once(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, "--threads", "3", files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(3) as callers,
    ):
        calls = [callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers()) for _ in range(3)]
        entered = gate.wait_entered(3)
        gate.open()
        assert all(call.result() for call in calls)
    assert len({pid for pid, _, _ in entered}) == 1
    assert len({thread for _, thread, _ in entered}) == 3


def test_a_late_async_hook_is_cancelled_and_its_worker_lives(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--hang-grace", "3600", files={"hooks.py": SOURCE + WAITS_TOO_LONG}) as broker:
        before = broker.status()["workers"][0]["pid"]
        assert code_of(lambda: broker.call("waits_too_long", bundle="hooks")).startswith("DEADLINE_EXCEEDED")
        # The worker has reported the cancellation.
        wait_until(lambda: broker.status()["workers"][0]["in_flight"] == 0, lambda: str(broker.status()))
        assert broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"] == str(before)
        assert broker.status()["restarts"] == 0


def test_the_callers_deadline_counts_too(broker: RunningBroker) -> None:
    error = code_of(lambda: broker.call("waits_forever", bundle="hooks", timeout=0.2))
    assert error.startswith("DEADLINE_EXCEEDED")


def test_when_the_queue_is_full_callers_hear_it_at_once(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, "--threads", "1", "--queue-size", "1", files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(8) as callers,
    ):
        calls = [callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers()) for _ in range(2)]
        wait_until(lambda: broker.status()["waiting"] == 1, lambda: str(broker.status()))
        error = code_of(lambda: broker.call("add_header", bundle="hooks"))
        gate.open()
        assert all(call.result() for call in calls)
    assert error.startswith("RESOURCE_EXHAUSTED")
    assert "--queue-size" in error


def test_a_bundle_that_appears_later_is_found_when_it_is_named(broker: RunningBroker) -> None:
    assert code_of(lambda: broker.call("late", bundle="late.zip")).startswith("NOT_FOUND")
    source = SOURCE.replace("def add_header", "def late")
    staged = broker.folder / "staged"
    staged.mkdir()
    (staged / "middleware.py").write_text(source)
    (staged / "manifest.json").write_text(
        '{"file_list": ["middleware.py"], "custom_middleware": {"driver": "grpc", "pre": [{"name": "late"}]}}'
    )
    staged.rename(broker.bundles / "late")
    for _ in range(6):
        assert "X-Worker" in broker.call("late", bundle="late.zip").request.set_headers
    with broker.admin() as client:
        names = [bundle["name"] for bundle in client.call("hooks")]
    assert "late" in names


def test_a_broken_bundle_is_reported_and_the_others_run(tmp_path: Path) -> None:
    files = {"broken.py": "def f(:\n", "hooks.py": SOURCE}
    with running_broker(tmp_path, files=files) as broker:
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        error = code_of(lambda: broker.call("f", bundle="broken"))
        assert "SyntaxError" in error
        assert "broken.py" in error
        broker.wait_for_log("broken.py")


def test_both_workers_share_the_work(broker: RunningBroker, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers()) for _ in range(2)]
        entered = gate.wait_entered(2)
        gate.open()
        assert all(call.result() for call in calls)
    assert len({pid for pid, _, _ in entered}) == 2


def test_gateways_may_come_over_tcp_and_over_several_sockets(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    other = f"unix://{tmp_path}/b.sock"
    flags = ("--listen", f"tcp://127.0.0.1:{port}", "--listen", other)
    with running_broker(tmp_path, *flags, files={"hooks.py": SOURCE}) as broker:
        for address in (f"tcp://127.0.0.1:{port}", other):
            with GrpcClient(address) as client:
                obj = Object(hook_name="add_header", hook_type=1)  # type: ignore[arg-type]
                answer = client.call("/coprocess.Dispatcher/Dispatch", obj.SerializeToString(), timeout=30)
            assert "X-Worker" in Object.FromString(answer).request.set_headers
        assert broker.status()["dispatches"]["answered"] == 2


def test_the_socket_has_the_mode_and_group_it_is_given(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    flags = ("--socket-mode", "0660", "--socket-group", group)
    with running_broker(tmp_path, *flags, files={"hooks.py": SOURCE}) as broker:
        info = broker.socket.stat()
        assert (info.st_mode & 0o777, info.st_gid) == (0o660, os.getgid())
