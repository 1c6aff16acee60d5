"""A lazy request: which methods need its message, and when the message is completed."""

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.request import Changes, LazyRequest, TykCoProcessRequest


class Source:
    """A body that can be read, unless `error` says why not."""

    def __init__(self, missing: bytes | MiniRequestObject) -> None:
        self.missing = missing
        self.error: Exception | None = None
        self.reads = 0
        self.meanwhile: Callable[[], object] = lambda: None

    @property
    def headers(self) -> Mapping[str, str]:
        return {"X-One": "1"}

    def read(self) -> bytes | MiniRequestObject:
        self.reads += 1
        if self.error is not None:
            raise self.error
        self.meanwhile()
        return self.missing


class Made:
    """A lazy request and what it is made of."""

    def __init__(self, missing: bytes | MiniRequestObject | None = None) -> None:
        self.message = MiniRequestObject(headers={"X-One": "1"}, url="/path", delete_params=["p"])
        body = MiniRequestObject(raw_body=b"\xff").SerializeToString()
        self.source = Source(body if missing is None else missing)
        self.changes = Changes()
        self.request = LazyRequest(self.message, self.source, self.changes)


def use_methods(request: TykCoProcessRequest) -> None:
    assert request.get_header("x-one") == "1"
    assert request.get_header("X-Two") is None
    request.add_header("X-Two", "2")
    request.delete_header("X-One")
    request.add_param("a", "1")
    request.delete_param("b")


def test_methods_do_not_need_the_message() -> None:
    made = Made()
    use_methods(made.request)
    assert not made.request.is_loaded
    assert not made.message.set_headers
    assert made.changes.headers == [("X-Two", "2"), ("X-One", None)]
    assert made.changes.params == [("a", "1"), ("b", None)]
    made.changes.write_to(made.message)
    assert made.message.set_headers == {"X-Two": "2"}
    assert list(made.message.delete_params) == ["p", "b"]


def test_the_message_has_earlier_changes() -> None:
    made = Made()
    use_methods(made.request)
    message = made.request.object
    assert message is made.message
    assert made.request.is_loaded
    assert message.raw_body == b"\xff"
    assert message.set_headers == {"X-Two": "2"}
    assert list(message.delete_params) == ["p", "b"]
    message.url = "/other"
    made.request.add_header("X-Three", "3")
    made.request.delete_header("X-Four")
    made.request.add_param("b", "2")
    made.request.delete_param("c")
    assert made.message.set_headers == {"X-Two": "2", "X-Three": "3"}
    assert list(made.message.delete_headers) == ["X-One", "X-Four"]
    assert made.message.add_params == {"a": "1", "b": "2"}
    assert list(made.message.delete_params) == ["p", "b", "c"]
    assert made.request.get_header("x-one") == "1"
    assert made.source.reads == 1


def test_a_message_may_come_from_another_message() -> None:
    made = Made(MiniRequestObject(url="/state"))
    made.request.add_header("X-Two", "2")
    assert made.request.object == MiniRequestObject(url="/state", set_headers={"X-Two": "2"})
    assert made.request.object is made.message


@pytest.mark.parametrize("add", ["add_header", "add_param"])
@pytest.mark.parametrize(("key", "value"), [("a", 1), (None, "b"), ("\ud800", "b"), ("a", b"\xff")])
def test_values_are_refused_as_by_the_message(add: str, key: Any, value: Any) -> None:
    def refusal(request: TykCoProcessRequest) -> tuple[type[BaseException], str]:
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(request, add)(key, value)
        return caught.type, str(caught.value)

    assert refusal(Made().request) == refusal(TykCoProcessRequest(MiniRequestObject()))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_a_copy_is_an_ordinary_request(again: Callable[[TykCoProcessRequest], TykCoProcessRequest]) -> None:
    request = Made().request
    request.add_header("X-Two", "2")
    request.mine = 1  # type: ignore[attr-defined]  # plugins may
    copied = again(request)
    assert type(copied) is TykCoProcessRequest
    assert copied.object == request.object
    assert copied.object.set_headers == {"X-Two": "2"}
    assert copied.mine == 1  # type: ignore[attr-defined]


def test_the_message_may_be_replaced_before_it_is_read() -> None:
    made = Made()
    made.request.add_header("X-Two", "2")
    made.request.object = MiniRequestObject(url="/mine")
    made.request.add_header("X-Three", "3")
    assert made.request.object == MiniRequestObject(url="/mine", set_headers={"X-Three": "3"})
    assert made.message.set_headers == {"X-Two": "2"}


def test_a_body_that_cannot_be_read_is_tried_again() -> None:
    made = Made()
    made.source.error = LookupError("gone")
    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            _ = made.request.object
    made.request.add_header("X-Two", "2")
    made.source.error = None
    assert made.request.object.raw_body == b"\xff"
    assert made.request.object.set_headers == {"X-Two": "2"}


def test_a_header_set_while_another_thread_reads_is_not_lost() -> None:
    made = Made()
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert go_on.wait(60)

    made.source.meanwhile = wait
    reader = threading.Thread(target=lambda: made.request.object)
    reader.start()
    assert entered.wait(60)
    writer = threading.Thread(target=made.request.add_header, args=("X-Late", "1"))
    writer.start()
    go_on.set()
    reader.join()
    writer.join()
    assert made.request.object.set_headers == {"X-Late": "1"}


def test_a_finalizer_that_reads_first_does_the_work() -> None:
    """The interrupted reader takes over what the finalizer left, changes included."""
    made = Made()
    made.request.add_header("X-Two", "2")

    def finalize() -> None:
        made.source.meanwhile = lambda: None
        made.request.object.url = "/finalizer"
        made.request.delete_header("X-Late")

    made.source.meanwhile = finalize
    assert made.request.object.url == "/finalizer"
    assert made.request.object.set_headers == {"X-Two": "2"}
    assert list(made.request.object.delete_headers) == ["X-Late"]
