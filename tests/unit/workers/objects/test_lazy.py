"""A request whose message nobody has asked for: what does not need the message, what does, and when it comes to be."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest
from tykpy.ipc.frame import unpack_frame
from tykpy.workers.objects.lazy import UnreadRequest
from tykpy.workers.objects.mapping import from_map
from tykpy.workers.objects.msgpack_object import PackedObject

FIELDS: dict[str, Any] = {"headers": {"X-One": "1"}, "url": "/path", "raw_body": b"\xff", "delete_params": ["p"]}
SPEC = {"APIID": "api", "bundle_hash": "abc"}


def packed(**request: Any) -> PackedObject:
    fields = {"hook_type": "Pre", "hook_name": "H", "request": FIELDS | request, "spec": SPEC}
    return PackedObject(msgpack.packb(fields))


def answered(one: PackedObject) -> Object:
    return from_map(Object, msgpack.unpackb(unpack_frame(one.answer(one.subject)).body))


def use_calls(request: TykCoProcessRequest) -> None:
    assert request.get_header("x-one") == "1"
    assert request.get_header("X-Two") is None
    request.add_header("X-Two", "2")
    request.delete_header("X-One")
    request.add_param("a", "1")
    request.delete_param("b")


def test_the_calls_do_not_need_the_message() -> None:
    one = packed()
    request = one.request()
    use_calls(request)
    assert type(request) is UnreadRequest
    assert not one.subject.HasField("request")
    answer = answered(one).request
    assert answer.set_headers == {"X-Two": "2"}
    assert answer.add_params == {"a": "1"}
    assert (list(answer.delete_headers), list(answer.delete_params)) == (["X-One"], ["p", "b"])
    assert answer.headers == {"X-One": "1"}
    assert (answer.url, answer.raw_body) == ("/path", b"\xff")


def test_whoever_asks_for_the_message_finds_what_was_done_before() -> None:
    one = packed(set_headers={"X-Zero": "0"})
    request = one.request()
    use_calls(request)
    message = request.object
    assert type(request) is TykCoProcessRequest
    assert vars(request) == {"object": message}
    assert message is one.subject.request
    assert message.set_headers == {"X-Zero": "0", "X-Two": "2"}
    message.url = "/other"
    request.add_header("X-Three", "3")
    assert answered(one).request.url == "/other"
    assert answered(one).request.set_headers == {"X-Zero": "0", "X-Two": "2", "X-Three": "3"}


@pytest.mark.parametrize("add", ["add_header", "add_param"])
@pytest.mark.parametrize(("key", "value"), [("a", 1), (None, "b"), ("\ud800", "b"), ("a", b"\xff")])
def test_what_the_message_refuses_is_refused_likewise(add: str, key: Any, value: Any) -> None:
    def refusal(request: TykCoProcessRequest) -> tuple[type[BaseException], str]:
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(request, add)(key, value)
        return caught.type, str(caught.value)

    assert refusal(packed().request()) == refusal(TykCoProcessRequest(MiniRequestObject()))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_a_copy_is_an_ordinary_request(again: Callable[[TykCoProcessRequest], TykCoProcessRequest]) -> None:
    request = packed().request()
    request.add_header("X-Two", "2")
    request.mine = 1  # type: ignore[attr-defined]  # plugins may
    copied = again(request)
    assert type(copied) is type(request) is TykCoProcessRequest
    assert copied.object == request.object
    assert copied.object.set_headers == {"X-Two": "2"}
    assert copied.mine == 1  # type: ignore[attr-defined]


def test_the_message_may_be_replaced_before_it_was_asked_for() -> None:
    one = packed()
    request = one.request()
    request.add_header("X-Two", "2")
    request.object = MiniRequestObject(url="/mine")
    request.add_header("X-Three", "3")
    assert request.object == MiniRequestObject(url="/mine", set_headers={"X-Three": "3"})
    assert one.subject.request.set_headers == {"X-Two": "2"}


def test_an_answer_is_complete_without_the_message_too() -> None:
    one = packed()
    request = one.request()
    assert isinstance(request, UnreadRequest)
    assert answered(one).request.HasField("return_overrides")
    assert not one.subject.HasField("request")
    assert request.object.HasField("return_overrides")


def test_a_thread_that_still_uses_the_request_later_finds_it_as_it_was() -> None:
    one = packed()
    request = one.request()
    request.add_header("X-Two", "2")
    answered(one)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(request.object.url))
    thread.start()
    thread.join()
    assert found == ["/path"]
    assert request.object.set_headers == {"X-Two": "2"}


def test_headers_set_while_another_thread_reads_are_not_lost() -> None:
    """Whoever writes to the record while the message is filled from it, writes to the message as well."""
    one = packed()
    request = one.request()
    assert isinstance(request, UnreadRequest)
    read, entered, go_on = request._read, threading.Event(), threading.Event()

    def read_slowly() -> MiniRequestObject:
        message = read()
        entered.set()
        go_on.wait(10)
        return message

    request._read = read_slowly
    reader = threading.Thread(target=request.read)
    reader.start()
    assert entered.wait(10)
    writer = threading.Thread(target=request.add_header, args=("X-Late", "1"))
    writer.start()
    go_on.set()
    reader.join()
    writer.join()
    assert request.object.set_headers == {"X-Late": "1"}
    assert answered(one).request.set_headers == {"X-Late": "1"}
