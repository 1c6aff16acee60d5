"""One suite for both front ends: gRPC and MessagePack-RPC give a gateway the same guarantees."""

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.broker import PATIENCE, RunningBroker, wait_until
from tests.support.hooks import SOURCE, Gate
from tests.support.peers.front_ends import FRONT_ENDS, CallError, Client, FrontEnd, both_listeners
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.commands.objects import CallDescription, build_event, build_object
from tykpy.ipc.bodies.store import BORROW_FROM
from tykpy.ipc.frame import Status
from tykpy.workers.dispatch.sampled_checks import FIRST_CALLS

MIB = 1024 * 1024
BINARY = b"\xff"
"""A byte that is not UTF-8: a body of it is sent once, as `raw_body`."""
MAX_INT64 = (1 << 63) - 1
MIN_INT64 = -(1 << 63)
CHAINED = """
from tyk.decorators import Pre

def leave_trace(request, name):
    request.object.raw_body += name.encode()
    request.add_header("Last", name)

@Pre
def a(request, session, spec):
    leave_trace(request, "a")
    return request, session

@Pre
def b(request, session, spec):
    leave_trace(request, "b")
    return request, session
"""
OTHERS = """
from pathlib import Path
from tyk.decorators import Pre, Post

@Pre
def opens(request, session, spec):
    Path(request.get_header("Gate")).touch()
    return request, session

@Post
def keep(request, session, spec):
    return request, session

@Post
def edits_everything(request, session, spec):
    request.object.headers["Added"] = "1"
    request.object.params.clear()
    request.object.method = ""
    request.delete_header("Gone")
    request.add_param("p", "q")
    request.object.url = "/other"
    request.object.return_overrides.headers["X"] = "y"
    session.rate = 0.5
    session.access_rights["api"].allowed_urls.add(url="/", methods=["GET"])
    spec["more"] = "1"
    return request, session
"""
FILES = {"hooks.py": SOURCE, "chained.py": CHAINED, "others.py": OTHERS}


@contextlib.contextmanager
def listening(folder: Path, *flags: str, workers: int = 1) -> Iterator[RunningBroker]:
    """A broker that listens for both protocols and runs one call at a time in each worker."""
    broker = both_listeners(RunningBroker(folder, "--threads", "1", *flags, workers=workers))
    for name, text in FILES.items():
        broker.add_file(name, text)
    with broker:
        yield broker


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A shared broker with two workers, for tests that do not kill them."""
    with listening(tmp_path_factory.mktemp("front-ends"), "--max-message", str(MIB), workers=2) as broker:
        yield broker


@pytest.fixture(params=sorted(FRONT_ENDS))
def connect(request: pytest.FixtureRequest) -> Callable[[RunningBroker], FrontEnd]:
    """The tested front end of a broker."""
    return FRONT_ENDS[request.param]


@pytest.fixture
def front(connect: Callable[[RunningBroker], FrontEnd], shared: RunningBroker) -> FrontEnd:
    """The tested front end of the shared broker."""
    return connect(shared)


@pytest.fixture
def client(front: FrontEnd) -> Iterator[Client]:
    """A connection to the shared broker."""
    with front.connect() as opened:
        yield opened


def an_object(hook: str, hook_type: str = "Pre", bundle: str = "hooks", **description: Any) -> Object:
    return build_object(CallDescription(hook, hook_type=hook_type, bundle=bundle, **description))


def gated(gate: Gate, name: str, hook: str = "gated") -> Object:
    return an_object(hook, headers=gate.headers(name))


def failure(call: Callable[[], object]) -> CallError:
    with pytest.raises(CallError) as caught:
        call()
    return caught.value


# -- hooks, events, chains -------------------------------------------------------------------------------------------


def test_a_pre_hook_changes_the_request(client: Client, shared: RunningBroker) -> None:
    answer = client.dispatch(an_object("add_header"))
    assert answer.request.set_headers["X-Worker"] in {str(worker["pid"]) for worker in shared.status()["workers"]}


def test_an_auth_hook_lets_in_and_keeps_out(client: Client) -> None:
    good = client.dispatch(an_object("check_key", "CustomKeyCheck", headers=[("Authorization", "secret")]))
    assert (good.session.rate, good.session.metadata["token"], good.metadata["token"]) == (1000.0, "secret", "secret")
    bad = client.dispatch(an_object("check_key", "CustomKeyCheck"))
    assert (bad.request.return_overrides.response_code, bad.HasField("session")) == (401, False)


def test_a_post_key_auth_hook_sees_the_session(client: Client) -> None:
    answer = client.dispatch(an_object("tag", "PostKeyAuth", session={"alias": "me"}))
    assert answer.request.set_headers["X-Alias"] == "me"


def test_a_post_hook_changes_the_body(client: Client) -> None:
    assert client.dispatch(an_object("grow", "Post", body=b"\xff\x00")).request.raw_body == b"\xff\x00\xff\x00"


def test_large_bodies_come_back_to_their_own_callers(
    connect: Callable[[RunningBroker], FrontEnd], shared: RunningBroker
) -> None:
    def call_again_and_again(caller: int) -> None:
        with connect(shared).connect() as client:
            for number in range(FIRST_CALLS):
                nonce = f"{caller}-{number}"
                body = (f"{nonce}|".encode() * BORROW_FROM)[: BORROW_FROM // 2 + number]
                request = client.dispatch(an_object("echo", headers=[("Nonce", nonce)], body=body)).request
                assert (request.set_headers["Nonce"], request.raw_body == body) == (nonce, True)
                assert request.body == body.decode()

    # Together they call more often than hooks are looked at, who have all of their request at once.
    with ThreadPoolExecutor(4) as callers:
        for ended in [callers.submit(call_again_and_again, caller) for caller in range(4)]:
            ended.result()


def test_a_response_hook_changes_the_response(client: Client) -> None:
    answer = client.dispatch(an_object("stamp", "Response", response_body=b"body"))
    assert (answer.response.raw_body, answer.response.headers["X-Stamp"]) == (b"changed body", "stamped")


def test_an_event_reaches_its_handler_and_is_answered_empty(client: Client) -> None:
    assert client.dispatch_event(build_event("on_failure", {"Type": "AuthFailure", "Meta": {}}, {}))
    assert client.dispatch(an_object("last_event")).request.set_headers["Last-Event"] == "AuthFailure"


def test_a_whole_chain_is_one_call(client: Client) -> None:
    answer = client.dispatch(an_object("*", bundle="chained", body=b"-"))
    assert (answer.request.raw_body, answer.request.set_headers["Last"]) == (b"-ab", "b")


def test_an_async_hook_is_answered(client: Client, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    gate.open()
    client.dispatch(gated(gate, "async", "gated_async"))
    assert [name for _, _, name in gate.entered] == ["async"]


@pytest.mark.parametrize(
    ("hook", "hook_type", "bundle"),
    [
        ("check_key", "CustomKeyCheck", "hooks"),
        ("grow", "Post", "hooks"),
        ("stamp", "Response", "hooks"),
        ("keep", "Post", "others"),
        ("edits_everything", "Post", "others"),
        ("*", "Pre", "chained"),
    ],
)
def test_both_front_ends_give_the_same_answer(shared: RunningBroker, hook: str, hook_type: str, bundle: str) -> None:
    obj = full_object(hook, hook_type, bundle)
    answers = []
    for front_end in FRONT_ENDS.values():
        with front_end(shared).connect() as client:
            answers.append(client.dispatch(obj))
    assert answers[0] == answers[1]


# -- values ----------------------------------------------------------------------------------------------------------


def full_object(hook: str, hook_type: str, bundle: str) -> Object:
    obj = an_object(
        hook, hook_type, bundle, headers=[("Authorization", "secret"), ("Ünï", "日本 🚀"), ("Empty", "")],
        body=bytes(range(256)), url="/pfad?q=ä", metadata=[("m", "n")],
    )  # fmt: skip
    session = obj.session
    session.last_check, session.expires, session.quota_max = MIN_INT64, MAX_INT64, -1
    session.rate, session.per, session.allowance = 5e-324, 1.7976931348623157e308, -0.1
    session.access_rights["api"].versions.append("Default")
    session.access_rights["api"].allowed_urls.add(url="/x", methods=["GET", "POST"])
    session.monitor.trigger_limits.extend([0.1, 80.0])
    session.basic_auth_data.SetInParent()
    session.alias, session.hmac_enabled = "日本 🚀", True
    session.tags.extend(["", "ß"])
    return obj


def test_every_value_comes_back_as_it_went(client: Client) -> None:
    obj = full_object("keep", "Post", "others")
    assert client.dispatch(obj) == obj


def test_absent_messages_stay_absent_and_empty_ones_present(client: Client) -> None:
    obj = an_object("keep", "Post", "others")
    obj.ClearField("response")
    answer = client.dispatch(obj)
    assert (answer.HasField("session"), answer.HasField("response")) == (False, False)
    obj.session.SetInParent()
    obj.response.SetInParent()
    answer = client.dispatch(obj)
    assert (answer.HasField("session"), answer.HasField("response")) == (True, True)
    assert not answer.session.HasField("jwt_data")


@pytest.mark.parametrize("hook", ["keep", "edits_everything"])
def test_a_map_s_values_have_the_types_of_their_fields(shared: RunningBroker, hook: str) -> None:
    """A client without protobuf sees the types of the fields: 3 is no double, and a body is no string."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(FRONT_ENDS["msgpack"](shared).path))
        session = {"rate": 3, "last_check": 3, "hmac_enabled": True, "tags": None}
        request = {"raw_body": b"text", "body": "text", "headers": {}}
        fields = {"hook_name": hook, "hook_type": "Post", "request": request, "session": session, "response": None}
        peer.sendall(msgpack.packb([0, 1, "dispatch", [fields]]))
        unpacker = msgpack.Unpacker()
        unpacker.feed(peer.recv(MIB))
        answer = unpacker.unpack()[3]
    assert "response" not in answer
    assert "headers" not in answer["request"] or hook == "edits_everything"
    values = (answer["session"]["rate"], answer["session"]["last_check"], answer["session"]["hmac_enabled"])
    assert list(map(type, values)) == [float, int, bool]
    assert (answer["request"]["raw_body"], answer["request"]["body"]) == (b"text", "text")
    assert answer["hook_type"] == 2


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "status", "text"),
    [
        ("nothing", Status.NOT_FOUND, "add_header"),
        ("raises", Status.HOOK_FAILED, "ValueError: of no use"),
        ("wrong_return", Status.HOOK_FAILED, "return request, session"),
        ("leaves", Status.HOOK_FAILED, "sys.exit(7)"),
    ],
)
def test_a_failed_call_has_its_code_and_the_next_one_is_answered(
    front: FrontEnd, client: Client, hook: str, status: Status, text: str
) -> None:
    error = failure(lambda: client.dispatch(an_object(hook)))
    assert error.code == front.code_of(status)
    assert text in error.message
    assert client.dispatch(an_object("keep", "Post", "others")).hook_name == "keep"


def test_an_error_s_message_is_the_same_over_both(shared: RunningBroker) -> None:
    messages = set()
    for front_end in FRONT_ENDS.values():
        with front_end(shared).connect() as client:
            messages.add(failure(lambda: client.dispatch(an_object("raises"))).message)
    assert len(messages) == 1


def test_a_chain_without_a_hook_type_is_invalid(front: FrontEnd, client: Client) -> None:
    obj = an_object("*", bundle="chained")
    obj.ClearField("hook_type")
    assert failure(lambda: client.dispatch(obj)).code == front.code_of(Status.INVALID)


def test_an_unknown_method_is_unimplemented(front: FrontEnd, client: Client) -> None:
    assert failure(lambda: client.call("Nope")).code == front.code_of(Status.UNIMPLEMENTED)
    assert client.dispatch(an_object("add_header")).request.set_headers


# -- deadlines -------------------------------------------------------------------------------------------------------


def test_a_call_s_own_deadline_ends_it(front: FrontEnd, client: Client, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    error = failure(lambda: client.dispatch(gated(gate, "a", "gated_async"), timeout=0.2))
    gate.open()
    assert error.code == front.code_of(Status.EXPIRED)


def test_a_hook_s_own_limit_ends_the_call(connect: Callable[[RunningBroker], FrontEnd], tmp_path: Path) -> None:
    with listening(tmp_path) as broker, connect(broker).connect() as client:
        error = failure(lambda: client.dispatch(an_object("busy_too_long")))
        assert error.code == connect(broker).code_of(Status.EXPIRED)
        assert client.dispatch(an_object("add_header")).request.set_headers


def test_a_call_whose_deadline_passed_in_the_queue_does_not_run(
    connect: Callable[[RunningBroker], FrontEnd], tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    with listening(tmp_path) as broker, connect(broker).connect() as busy, connect(broker).connect() as client:
        first = busy.start(gated(gate, "first"))
        gate.wait_entered()
        error = failure(lambda: client.dispatch(gated(gate, "late"), timeout=0.05))
        wait_until(lambda: broker.status()["waiting"] == 0, lambda: "an empty queue")
        gate.open()
        assert first.result(PATIENCE).hook_name == "gated"
        client.dispatch(gated(gate, "last"))
        assert error.code == connect(broker).code_of(Status.EXPIRED)
        assert [name for _, _, name in gate.entered] == ["first", "last"]


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_message_as_large_as_allowed_passes(client: Client) -> None:
    obj = an_object("keep", "Post", "others", body=BINARY * (MIB - 16 * 1024))
    assert len(client.dispatch(obj).request.raw_body) == MIB - 16 * 1024


def test_a_request_above_the_limit_is_refused(front: FrontEnd) -> None:
    with front.connect() as client:
        error = failure(lambda: client.dispatch(an_object("keep", "Post", "others", body=BINARY * (MIB + 16 * 1024))))
        assert error.code == front.code_of(Status.TOO_LARGE)
    with front.connect() as client:
        assert client.dispatch(an_object("add_header")).request.set_headers


def test_a_too_large_answer_does_not_end_the_connection(front: FrontEnd, client: Client) -> None:
    error = failure(lambda: client.dispatch(an_object("grow", "Post", body=BINARY * (MIB * 3 // 4))))
    assert error.code == front.code_of(Status.TOO_LARGE)
    assert f"and may have {MIB} (--max-message)" in error.message
    assert client.dispatch(an_object("add_header")).request.set_headers


def test_a_full_queue_refuses_at_once(connect: Callable[[RunningBroker], FrontEnd], tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with listening(tmp_path, "--queue-size", "1") as broker, contextlib.ExitStack() as stack:
        front = connect(broker)
        clients = [stack.enter_context(front.connect()) for _ in range(3)]
        running = clients[0].start(gated(gate, "runs"))
        gate.wait_entered()
        waiting = clients[1].start(gated(gate, "waits"))
        wait_until(lambda: broker.status()["waiting"] == 1, lambda: "a call in the queue")
        error = failure(lambda: clients[2].dispatch(gated(gate, "one too many")))
        gate.open()
        assert error.code == front.code_of(Status.OVERLOADED)
        assert "--queue-size" in error.message
        assert [call.result(PATIENCE).hook_name for call in (running, waiting)] == ["gated", "gated"]


# -- connections -----------------------------------------------------------------------------------------------------


def test_many_in_flight_each_get_their_own_answer(client: Client) -> None:
    objects = [an_object("echo", headers=[("Nonce", str(number))]) for number in range(400)]
    answers = client.pipeline(objects)
    assert [answer.request.set_headers["Nonce"] for answer in answers] == [str(number) for number in range(400)]


def test_an_answer_does_not_wait_for_those_of_earlier_calls(client: Client, tmp_path: Path) -> None:
    """The first call is answered only because the last one on the same connection ran."""
    gate = Gate(tmp_path)
    echoes = [an_object("echo", headers=[("Nonce", "x")]) for _ in range(20)]
    opens = an_object("opens", bundle="others", headers=gate.headers())
    answers = client.pipeline([gated(gate, "first"), *echoes, opens])
    assert [answers[0].hook_name, answers[-1].hook_name] == ["gated", "opens"]


def test_a_hang_up_cancels_a_call_that_has_not_started(
    connect: Callable[[RunningBroker], FrontEnd], tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    with listening(tmp_path) as broker, connect(broker).connect() as busy, connect(broker).connect() as leaver:
        first = busy.start(gated(gate, "first"))
        gate.wait_entered()
        left = leaver.start(gated(gate, "left"))
        wait_until(lambda: broker.status()["under_way"] == 2, lambda: "two dispatches under way")
        leaver.hang_up()
        failure(lambda: left.result(PATIENCE))
        wait_until(lambda: broker.status()["under_way"] == 1, lambda: "one dispatch under way")
        gate.open()
        first.result(PATIENCE)
        busy.dispatch(gated(gate, "last"))
        assert [name for _, _, name in gate.entered] == ["first", "last"]


def test_a_hang_up_during_a_hook_leaves_the_worker_to_others(
    connect: Callable[[RunningBroker], FrontEnd], tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    with listening(tmp_path) as broker, connect(broker).connect() as other, connect(broker).connect() as leaver:
        left = leaver.start(gated(gate, "left"))
        (pid, _, _), *_ = gate.wait_entered()
        leaver.hang_up()
        failure(lambda: left.result(PATIENCE))
        gate.open()
        assert other.dispatch(an_object("add_header")).request.set_headers["X-Worker"] == str(pid)


def test_malformed_input_ends_that_connection_only(front: FrontEnd, client: Client) -> None:
    client.dispatch(an_object("add_header"))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(front.path))
        peer.sendall(front.garbage)
        while peer.recv(MIB):
            pass
    assert client.dispatch(an_object("add_header")).request.set_headers
    with front.connect() as another:
        assert another.dispatch(an_object("add_header")).request.set_headers


def test_a_draining_broker_only_finishes_what_runs(
    connect: Callable[[RunningBroker], FrontEnd], tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    with listening(tmp_path) as broker, connect(broker).connect() as busy, connect(broker).connect() as late:
        late.dispatch(an_object("add_header"))
        first = busy.start(gated(gate, "first"))
        gate.wait_entered()
        assert broker.process is not None
        broker.process.send_signal(signal.SIGTERM)
        broker.wait_for_status(lambda text: "STOPPING=1" in text)
        error = failure(lambda: late.dispatch(an_object("add_header")))
        gate.open()
        assert error.code == connect(broker).code_of(Status.UNAVAILABLE)
        assert first.result(PATIENCE).hook_name == "gated"
        assert broker.wait() == 0
