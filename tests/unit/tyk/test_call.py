"""`tyk.current()`: the running call and its metadata."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading

import pytest

from tyk import current
from tyk.call import NO_ORIGIN, RUNNING, Call
from tyk.errors import NoCallError
from tyk.event import TykEvent
from tyk.gateway.testing import FakeHook, fake_call
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.grpc.wire import pack_fields

TRACE, SPAN, OTHER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "c8be7c8270314442"
HOOK = FakeHook("hook", "bundle")
LOOKED_FOR_BY_A_FINALIZER = """
import gc
from contextvars import Context
from tyk.call import NO_ORIGIN, RUNNING, find

HOOKS = [(None, None, 0, NO_ORIGIN) for _ in range(2)]

class Garbage:
    def __init__(self):
        self.itself = self
    def __del__(self):
        find()

def call():
    RUNNING.set(HOOKS[0])
    Garbage()
    for running in HOOKS * 10:
        RUNNING.set(running)
    gc.collect()

for threshold in range(1, 40):  # one of them has it collected within `set`
    gc.set_threshold(threshold)
    Context().run(call)
"""


def told(*fields: tuple[bytes, bytes]) -> dict[str, str | bytes]:
    return dict(Call((HOOK, Object(), 0, (pack_fields(*fields), 0, 1, None))).metadata)


def test_values_of_one_name_are_joined() -> None:
    assert told((b"tracestate", b"a=1"), (b"other", b""), (b"tracestate", b"b=2")) == {
        "tracestate": "a=1,b=2",
        "other": "",
    }


@pytest.mark.parametrize("coded", [b"AAH/", b"AAH/,BBBB", b" AAH/ "])
def test_binary_values_are_bytes(coded: bytes) -> None:
    assert told((b"key-bin", coded), (b"key-bin", b"CCCC")) == {"key-bin": b"\0\1\xff"}


def test_padding_may_be_left_out() -> None:
    assert told((b"a-bin", b"AQI"), (b"b-bin", b"AQI=")) == {"a-bin": b"\1\2", "b-bin": b"\1\2"}


def test_undecodable_values_are_dropped_or_replaced() -> None:
    assert told((b"a-bin", b"!"), (b"text", b"\xff")) == {"text": "�"}


def test_fields_of_grpc_itself_are_not_metadata() -> None:
    own = (
        (b"grpc-timeout", b"1S"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"x"),
        (b"te", b"trailers"),
    )
    assert told((b"first", b"1"), *own, (b"last", b"2")) == {"first": "1", "last": "2"}


def test_metadata_is_read_only() -> None:
    with fake_call({"a": "1"}), pytest.raises(TypeError):
        current().metadata["a"] = "2"  # type: ignore[index]


def test_a_call_without_metadata_has_an_empty_mapping() -> None:
    assert dict(Call((HOOK, Object(), 0, NO_ORIGIN)).metadata) == {}


def test_metadata_is_decoded_once() -> None:
    running = HOOK, Object(), 0, (pack_fields((b"a", b"1")), 0, 1, None)
    context = contextvars.Context()
    context.run(RUNNING.set, running)
    assert context.run(lambda: current().metadata is current().metadata)


def test_finalizers_may_look_for_the_call() -> None:
    """They do when they log. Before CPython 3.12 they run within `RUNNING.set`, where no variable may be set."""
    environment = {**os.environ, "PYTHONMALLOC": "debug"}
    ended = subprocess.run([sys.executable, "-c", LOOKED_FOR_BY_A_FINALIZER], env=environment, check=False)
    assert ended.returncode == 0


def test_a_call_tells_whose_it_is() -> None:
    with fake_call(
        api_id="api", org_id="org", request_id="r", bundle="b", hook="h", hook_type="Post", time_left=60.0, attempt=2
    ):
        call = current()
    assert (call.api_id, call.org_id, call.request_id) == ("api", "org", "r")
    assert (call.bundle, call.hook, call.hook_type, call.attempt) == ("b", "h", "Post", 2)
    assert 0 < call.time_left <= 60
    assert repr(call) == "Call(hook='h', bundle='b', api_id='api', attempt=2)"


def test_time_left_ends_at_zero_and_may_be_infinite() -> None:
    with fake_call(time_left=-1):
        assert current().time_left == 0
    with fake_call():
        assert current().time_left == float("inf")


def test_an_event_has_a_call() -> None:
    with fake_call({"x-request-id": "r"}, hook_type="Event", api_id="api"):
        call = current()
    assert (call.hook_type, call.api_id, call.request_id, call.org_id) == ("Event", "api", "r", "")


def test_an_unknown_hook_type_is_its_number() -> None:
    assert Call((HOOK, Object(hook_type=99), 0, NO_ORIGIN)).hook_type == "99"  # type: ignore[arg-type]


@pytest.mark.parametrize("subject", [Object(), TykEvent(spec={})])
def test_a_call_may_lack_everything(subject: object) -> None:
    call = Call((HOOK, subject, 0, NO_ORIGIN))
    assert (call.api_id, call.org_id, call.request_id, call.trace_id, call.span_id) == ("", "", "", "", "")


def test_the_trace_is_the_dispatch_s_or_the_caller_s() -> None:
    def ids(origin: str | None, metadata: str | None, header: str | None) -> tuple[str, str]:
        values = [None if span is None else f"00-{TRACE}-{span}-01" for span in (origin, metadata, header)]
        subject = Object(request={"headers": {"Traceparent": values[2]} if values[2] else {}})
        carrier = {"traceparent": values[0]} if values[0] else None
        fields = pack_fields((b"traceparent", values[1].encode())) if values[1] else None
        call = Call((HOOK, subject, 0, (fields, 0, 1, carrier)))
        return call.trace_id, call.span_id

    assert ids(SPAN, OTHER, OTHER) == (TRACE, SPAN)
    assert ids(None, SPAN, OTHER) == (TRACE, SPAN)
    assert ids(None, None, SPAN) == (TRACE, SPAN)
    assert ids(None, "not-hex", SPAN) == ("", "")


def test_outside_of_hooks_there_is_no_call() -> None:
    with pytest.raises(NoCallError, match="no hook runs here"):
        current()


def test_threads_have_the_call_if_they_copy_the_context() -> None:
    found: list[str] = []

    def look() -> None:
        try:
            found.append(current().hook)
        except NoCallError:
            found.append("none")

    with fake_call(hook="mine"):
        threads = [threading.Thread(target=look), threading.Thread(target=contextvars.copy_context().run, args=[look])]
        for thread in threads:
            thread.start()
            thread.join()
        asyncio.run(asyncio.to_thread(look))
    assert found == ["none", "mine", "mine"]
