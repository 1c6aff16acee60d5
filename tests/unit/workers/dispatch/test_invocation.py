"""A hook's arguments, the effect of its return value, and error messages."""

import logging
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.bundles import Served, md5, subject, write_bundle
from tests.unit.conftest import Serve
from tyk.proto.coprocess_object_pb2 import Event, Object
from tykpy.bundles.errors import WorkerError
from tykpy.ipc.frame import Frame, Kind, Packed, Status, pack_frame

Make = Callable[..., Served]


@pytest.fixture
def make(folder: Path, serve: Serve) -> Make:
    """Serve one bundle `foo` with this `middleware.py`."""

    def start(source: str, **middleware: Any) -> Served:
        write_bundle(folder / "foo", {"middleware.py": textwrap.dedent(source)}, **middleware)
        return serve()

    return start


def failure(served: Served, one: Object) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        served.run(one)
    return caught.value


def test_three_arguments(make: Make) -> None:
    served = make("""
        @Hook
        def H(request, session, spec):
            request.object.raw_body = spec["OrgID"].encode()
            request.delete_header("X-One")
            return request, session
        """)
    answer = served.run(subject("H"))
    assert answer.request.raw_body == b"org"
    assert list(answer.request.delete_headers) == ["X-One"]
    assert not answer.HasField("session")


def test_a_session_is_present_once_it_is_written_to(make: Make) -> None:
    served = make("""
        @CustomKeyCheck
        def H(request, session, metadata, spec):
            session.rate = 5
            metadata["token"] = "secret"
            return request, session, metadata
        """)
    answer = served.run(subject("H", hook_type="CustomKeyCheck"))
    assert answer.session.rate == 5
    assert answer.session.metadata == {"token": "secret"}
    assert answer.metadata == {"token": "secret"}


@pytest.mark.parametrize(
    "returned", ["request, session, {'token': 'new', 'more': 'x'}", "request, None, {'token': 'new', 'more': 'x'}"]
)
def test_returned_metadata_is_merged_and_wins_everywhere(make: Make, returned: str) -> None:
    served = make(f"@Hook\ndef H(request, session, metadata, spec):\n    return {returned}\n")
    one = subject("H", hook_type="Post", session={"metadata": {"token": "old", "kept": "1"}})
    one.metadata.update({"token": "old", "kept": "1"})
    answer = served.run(one)
    assert answer.session.metadata == answer.metadata == {"token": "new", "kept": "1", "more": "x"}


def test_metadata_changed_in_place_is_not_undone(make: Make) -> None:
    served = make("""
        @Hook
        def H(request, session, spec):
            session.metadata["changed"] = "new"
            del session.metadata["gone"]
            return request, session
        """)
    one = subject("H", hook_type="Post", session={"metadata": {"changed": "old", "gone": "1"}})
    one.metadata.update({"changed": "old", "gone": "1", "extra": "2"})
    answer = served.run(one)
    assert answer.metadata == answer.session.metadata == {"changed": "new", "extra": "2"}


def test_a_new_session_with_the_old_metadata_keeps_it(make: Make) -> None:
    served = make("""
        from tyk.session import TykSession
        @Hook
        def H(request, session, metadata, spec):
            metadata["token"] = "t"
            return request, TykSession(rate=3), metadata
        """)
    answer = served.run(subject("H", hook_type="CustomKeyCheck"))
    assert (answer.session.rate, dict(answer.session.metadata)) == (3, {"token": "t"})


@pytest.mark.parametrize("session", ["TykSession()", "TykSession(rate=0)"])
def test_a_new_empty_session_is_present(make: Make, session: str) -> None:
    source = (
        f"from tyk.session import TykSession\n@Hook\ndef H(request, session, spec):\n    return request, {session}\n"
    )
    assert make(source).run(subject("H")).HasField("session")


@pytest.mark.parametrize(
    "body",
    [
        "return MiniRequestObject(method='NEW'), session",
        "return TykRequest(MiniRequestObject(method='NEW')), session",
        "request.object = MiniRequestObject(method='NEW'); return request, session",
        "request.object.method = 'NEW'; return request.object, session",
        "request.object.method = 'NEW'; return [request, session]",
        "request.object.method = 'NEW'; return None, None",
    ],
)
def test_new_and_changed_requests_are_applied(make: Make, body: str) -> None:
    header = "from tyk.request import MiniRequestObject, TykRequest\n@Hook\ndef H(request, session, spec):\n"
    answer = make(f"{header}    {body}\n").run(subject("H"))
    assert answer.request.method == "NEW"
    assert answer.request.HasField("return_overrides")


@pytest.mark.parametrize("body", ["response.status_code = 201", "response.status_code = 201; return response"])
def test_a_response_hook_may_return_nothing(make: Make, body: str) -> None:
    served = make(f"@Response\ndef H(request, response, session, metadata, spec):\n    {body}\n")
    answer = served.run(subject("H", hook_type="Response", response={"status_code": 200}))
    assert answer.response.status_code == 201


def test_a_new_response_is_applied(make: Make) -> None:
    served = make("""
        from tyk.response import TykResponse
        @Response
        async def H(request, response, session, metadata, spec):
            return TykResponse(status_code=202, raw_body=b"new")
        """)
    answer = served.run(subject("H", hook_type="Response", response={"status_code": 200}))
    assert (answer.response.status_code, answer.response.raw_body) == (202, b"new")


def test_the_reply_always_has_what_the_gateway_reads(make: Make) -> None:
    served = make("@Hook\ndef H(request, session, spec):\n    return request, session\n")
    answer = served.run(Object(hook_name="H", spec={"bundle_hash": md5("foo")}, hook_type="Response"))
    assert answer.request.HasField("return_overrides")
    assert answer.HasField("response")


def test_fields_of_a_newer_gateway_survive(make: Make) -> None:
    served = make("@Hook\ndef H(request, session, spec):\n    return request, session\n")
    unknown = b"\xfa\x3f\x03new"  # field 1023, three bytes
    payload = pack_frame(Kind.OBJECT, None, subject("H").SerializeToString() + unknown)
    assert unknown in served.frame(payload).body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", "returned nothing (None); write `return request, session`"),
        ("return request", "returned a value of type TykCoProcessRequest; write `return request, session`"),
        ("return request, session, {}", "returned 3 values; write `return request, session`"),
        ("return [request]", "returned 1 value; write `return request, session`"),
        ("return 5", "returned a value of type int; write `return request, session`"),
        ("return type('N' * 10_000, (), {})()", f"returned a value of type {'N' * 253}...; write"),
        (
            "class M(type):\n        __name__ = property(lambda cls: 1 / 0)\n    return M('Odd', (), {})()",
            "returned a value of type Odd; write",
        ),
        ("return (1 // 0 for _ in 'ab')", "returned a value of type generator, which raised ZeroDivisionError"),
        ("async def later(): ...\n    return later()", "write `async def` for the hook itself"),
    ],
)
def test_a_wrong_return_value_is_explained(make: Make, body: str, message: str) -> None:
    error = failure(make(f"@Hook\ndef H(request, session, spec):\n    {body}\n"), subject("H"))
    assert error.status is Status.HOOK_FAILED
    assert message in error.message
    assert "middleware.py:2" in error.message


FIVE = "request, response, session, metadata, spec"


@pytest.mark.parametrize("prefix", ["", "async "])
@pytest.mark.parametrize("hook_type", ["Pre", "CustomKeyCheck", "Response"])
@pytest.mark.parametrize(
    "returned", ["request, session", FIVE, "response.status_code", "None", "{}", "request", "(response,)", "False"]
)
def test_five_arguments_may_return_anything(make: Make, prefix: str, hook_type: str, returned: str) -> None:
    changes = "request.add_header('a', 'b'); response.status_code = 418; metadata['token'] = 't'"
    served = make(f"@Hook\n{prefix}def H({FIVE}):\n    {changes}\n    return {returned}\n")
    answer = served.run(subject("H", hook_type=hook_type, response={"status_code": 200}))
    assert answer.request.set_headers == {"a": "b"}
    assert (answer.response.status_code, answer.session.metadata["token"]) == (418, "t")


@pytest.mark.parametrize(
    ("arguments", "returned"),
    [
        ("request, session, spec", "request, {}"),
        ("request, session, spec", "session, request"),
        ("request, session, spec", "'x', session"),
        ("request, session, spec", "'ab'"),
        ("request, session, spec", "{'request': 1, 'session': 2}"),
        ("request, session, spec", "(part for part in (request, session))"),
        ("request, session, metadata, spec", "'x', session, metadata"),
        ("request, session, metadata, spec", "iter([request, session, metadata])"),
    ],
)
def test_parts_that_tyk_never_reads_are_ignored(make: Make, arguments: str, returned: str) -> None:
    changes = "request.add_header('a', 'b'); session.rate = 5"
    served = make(f"@Hook\ndef H({arguments}):\n    {changes}\n    return {returned}\n")
    answer = served.run(subject("H", hook_type="CustomKeyCheck"))
    assert (dict(answer.request.set_headers), answer.session.rate) == ({"a": "b"}, 5)


@pytest.mark.parametrize(
    ("arguments", "returned", "words"),
    [
        (FIVE, "request, session", "returned 2 values, which counts for nothing"),
        (FIVE, "response.status_code", "returned a value of type int, which counts for nothing"),
        ("request, session, spec", "request, {}", "returned a value of type dict as its session, which counts for"),
        ("request, session, metadata, spec", "'x', session, metadata", "returned a value of type str as its request"),
    ],
)
def test_an_ignored_return_warns_once(
    make: Make, caplog: pytest.LogCaptureFixture, arguments: str, returned: str, words: str
) -> None:
    served = make(f"@Hook\ndef H({arguments}):\n    return {returned}\n")
    for _ in range(3):
        served.run(subject("H", response={"status_code": 200}))
    assert [words in record.getMessage() for record in caplog.records] == [True]


def test_a_session_without_metadata_fails_as_in_tyk(make: Make) -> None:
    served = make("@Hook\ndef H(request, session, metadata, spec):\n    return request, {}, metadata\n")
    assert "returned a value of type dict; write `return session`" in failure(served, subject("H")).message


def test_five_arguments_may_not_return_a_coroutine(make: Make) -> None:
    served = make(f"async def later(): ...\n@Hook\ndef H({FIVE}):\n    return later()\n")
    assert "write `async def` for the hook itself" in failure(served, subject("H")).message


def test_an_ignored_return_in_a_chain_stops_nothing(make: Make) -> None:
    source = "".join(
        f"@Pre\ndef H{n}({FIVE}):\n    request.add_header('h{n}', '')\n    return 1, 2\n" for n in range(3)
    )
    assert sorted(make(source).run(subject("*")).request.set_headers) == ["h0", "h1", "h2"]


def test_metadata_that_is_not_a_string_is_explained(make: Make) -> None:
    served = make("@Hook\ndef H(request, session, metadata, spec):\n    return request, session, {'n': 1}\n")
    assert (
        "returned metadata['n'] = a value of type int, but keys and values are strings"
        in failure(served, subject("H")).message
    )


@pytest.mark.parametrize("prefix", ["", "async "])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("import sys; sys.exit(4)", "called sys.exit(4)"),
        ("return H(request, session, spec) if 0 else deep(0)", "RecursionError"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("raise Silent", "Silent: <its __str__ raised ValueError>"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_any_exception_of_a_hook_fails_only_its_call(make: Make, prefix: str, body: str, message: str) -> None:
    helpers = (
        "def deep(n):\n    return deep(n + 1)\nclass Silent(Exception):\n    def __str__(self): raise ValueError\n"
    )
    good = "@Hook\ndef Good(request, session, spec):\n    return request, session\n"
    served = make(f"{helpers}{good}@Hook\n{prefix}def H(request, session, spec):\n    {body}\n")
    error = failure(served, subject("H"))
    assert error.status is Status.HOOK_FAILED
    assert error.message.startswith(f"hook H of bundle foo failed: {message}")
    assert error.meta == {"bundle": "foo", "hook": "H"}
    served.run(subject("Good"))


def test_an_error_names_the_line_and_logs_the_traceback(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    served = make("""
        import json
        def parse(text):
            return json.loads(text)
        @Hook
        def H(request, session, spec):
            parse("{")
            return request, session
        """)
    with caplog.at_level(logging.ERROR):
        error = failure(served, subject("H"))
    assert "middleware.py:5)" in error.message
    assert "in parse" in caplog.text
    assert "invocation.py" not in caplog.text.partition("During")[0].partition("Traceback")[2]


def test_on_error_continue_passes_the_object_untouched(make: Make) -> None:
    served = make("""
        @Pre(on_error="continue")
        def H(request, session, spec):
            request.add_header("half", "done")
            raise ValueError
        @Pre(on_error="continue")
        async def Async(request, session, spec):
            request.add_header("half", "done")
            raise ValueError
        @Hook(on_error="continue")
        def Auth(request, session, spec):
            raise ValueError
        """)
    for name in ("H", "Async"):
        one = subject(name)
        assert served.run(one) == one
    assert failure(served, subject("Auth", hook_type="CustomKeyCheck")).status is Status.HOOK_FAILED


def test_callables_of_every_kind(make: Make) -> None:
    source = """
        import functools
        def traced(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)
            return wrapper
        @Hook
        @traced
        def Inside(request, session, spec):
            return request, session
        @traced
        @Hook
        def Outside(request, session, metadata, spec):
            return request, session, metadata
        class Check:
            @Hook
            def Method(self, request, session, spec):
                return request, session
        Method = Check().Method
        @Hook
        def Defaults(request, session, metadata, spec=None):
            return request, session, metadata
        @Hook
        def Many(request, session, spec, a=1, b=2, c=3):
            return request, session
        @Hook
        def Rest(request, session, spec, *rest, key=None):
            return request, session
        """
    served = make(source)
    shapes = {hook["name"]: hook["shape"].count(",") + 1 for hook in served.store.describe()[0]["hooks"]}
    assert shapes == {"Inside": 3, "Outside": 4, "Method": 3, "Defaults": 4, "Many": 3, "Rest": 3}
    for name in shapes:
        served.run(subject(name))


EVENT = '{"message": {"Type": "AuthFailure", "Meta": {}}, "handler_name": "%s", "spec": {"APIID": "%s"}}'


def event(name: str, api: str = "api") -> Packed:
    return pack_frame(Kind.EVENT, None, Event(payload=EVENT % (name, api)).SerializeToString())


def test_events_reach_their_handlers_and_are_answered_empty(make: Make, tmp_path: Path) -> None:
    served = make(f"""
        import pathlib
        @Event
        def seen(event, spec):
            pathlib.Path({str(tmp_path)!r}, "seen").write_text(event.message.Type + spec.APIID)
        @Hook
        async def later(event, spec):
            pathlib.Path({str(tmp_path)!r}, "later").write_text(event.handler_name)
        """)
    assert served.frame(event("seen")) == Frame(Kind.EVENT, None, b"")
    assert served.frame(pack_frame(Kind.EVENT_MAP, None, msgpack.packb({"payload": EVENT % ("later", "a")}))) == Frame(
        Kind.EVENT_MAP,
        None,
        b"",
    )
    assert (tmp_path / "seen").read_text() == "AuthFailureapi"
    assert (tmp_path / "later").read_text() == "later"


def test_the_event_handler_of_the_apis_bundle_is_used(folder: Path, serve: Serve, tmp_path: Path) -> None:
    for name in ("foo", "bar"):
        source = f"""
            @Event
            def handle(event, spec):
                with open({str(tmp_path / "seen")!r}, "w") as file:
                    file.write({name!r})
            @Hook
            def H(request, session, spec):
                return request, session
            """
        write_bundle(folder / name, {"middleware.py": textwrap.dedent(source)})
    served = serve()
    with pytest.raises(WorkerError, match="event handler handle is in several bundles"):
        served.frame(event("handle"))
    for name in ("foo", "bar", "foo"):
        served.run(subject("H", name))
        served.frame(event("handle"))
        assert (tmp_path / "seen").read_text() == name


@pytest.mark.parametrize(
    ("frame", "status", "message"),
    [
        (event("nobody"), Status.NOT_FOUND, "no bundle has an @Event handler nobody; there are: E"),
        (pack_frame(Kind.EVENT, None, Event(payload="{").SerializeToString()), Status.INVALID, "not JSON"),
        (pack_frame(Kind.OBJECT, None, b"\xff"), Status.INVALID, "not a serialized coprocess.Object"),
        ((msgpack.packb([Kind.OBJECT, None, 5]), None), Status.INVALID, "not a serialized coprocess.Object"),
        (pack_frame(99, None, b""), Status.INVALID, "kind 99"),
        (
            pack_frame(Kind.OBJECT_MAP, None, msgpack.packb({"request": {"nope": 1}})),
            Status.INVALID,
            "request: Object contains unknown field `nope`",
        ),
        ((b"\xc1", None), Status.INVALID, "not a frame"),
    ],
)
def test_a_dispatch_that_cannot_run_says_why(make: Make, frame: Packed, status: Status, message: str) -> None:
    served = make("@Event\ndef E(event, spec): ...\n")
    with pytest.raises(WorkerError, match=message) as caught:
        served.frame(frame)
    assert caught.value.status is status


def test_an_event_handler_is_not_run_for_a_request(make: Make) -> None:
    served = make("@Event\ndef E(event, spec): ...\n")
    assert "handles events (event, spec), not requests" in failure(served, subject("E")).message
