"""Workers warn about every kind of change that the gateway ignores, about no other change, and not too often."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Served, subject, write_bundle
from tests.unit.conftest import Serve
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bundles.hook import Hook
from tykpy.workers.dispatch import sampled_checks
from tykpy.workers.dispatch.lookup import Lookup

REQUEST = "(request, session, spec)"
FULL = "(request, session, metadata, spec)"
RESPONSE = "(request, response, session, metadata, spec)"
RETURNS = {REQUEST: "request, session", FULL: "request, session, metadata", RESPONSE: "response"}


def write_hook(folder: Path, decorator: str, arguments: str, *lines: str) -> None:
    body = "\n".join(f"    {line}" for line in lines)
    write_bundle(
        folder / "foo",
        {"middleware.py": f"{decorator}\ndef hook{arguments}:\n{body}\n    return {RETURNS[arguments]}\n"},
    )


def sent(hook_type: str) -> Object:
    fields: dict[str, Any] = {"request": {"body": "text", "raw_body": b"text"}}
    if hook_type not in ("Pre", "CustomKeyCheck"):
        fields["session"] = {"rate": 1.0, "metadata": {"token": "t"}}
    if hook_type == "Response":
        fields["response"] = {
            "status_code": 200,
            "body": "text",
            "raw_body": b"text",
            "headers": {"Server": "s"},
            "multivalue_headers": [{"key": "Server", "values": ["s"]}],
        }
    return subject("hook", hook_type=hook_type, **fields)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


IGNORED = [
    ("Pre", REQUEST, 'request.object.body = "x"', "the gateway ignores request.object.body"),
    ("Pre", REQUEST, 'request.object.headers["A"] = "1"', "changes in request.object.headers"),
    ("Pre", REQUEST, 'del request.object.headers["X-One"]', "changes in request.object.headers"),
    ("Pre", REQUEST, 'request.object.params["c"] = "1"', "changes in request.object.params"),
    ("Pre", REQUEST, 'request.object.params.pop("a")', "changes in request.object.params"),
    ("Pre", REQUEST, 'request.object.scheme = "https"', "request.object.scheme"),
    ("Pre", REQUEST, 'request.object.url = "/path?a=3"', "keeps the query that came"),
    ("Pre", REQUEST, 'request.object.url = "/path"', "keeps the query that came"),
    ("Pre", REQUEST, 'request.object.url = ""', "answers 500"),
    ("Pre", REQUEST, 'request.object.url = "no slash"', "answers 500"),
    ("Pre", REQUEST, "session.rate = 5.0", "drops this change"),
    ("Post", FULL, 'metadata["a"] = "b"', "drops this change"),
    ("Pre", REQUEST, 'request.add_header("host", "a")', "ignores a Host header"),
    ("Pre", REQUEST, "request.object.return_overrides.response_code = 99", "below 100 or above 999"),
    ("Pre", REQUEST, "request.object.return_overrides.response_code = 1000", "below 100 or above 999"),
    ("Response", RESPONSE, 'response.body = "x"', "the gateway ignores response.body"),
    ("Response", RESPONSE, "response.status_code = 0", "status 0"),
    ("Response", RESPONSE, 'request.add_header("A", "1")', "does to the request"),
    ("Response", RESPONSE, "request.object.return_overrides.response_code = 500", "does to the request"),
]


@pytest.mark.parametrize(("hook_type", "arguments", "line", "said"), IGNORED, ids=[row[2] for row in IGNORED])
def test_ignored_changes_are_reported(
    folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture, hook_type: str, arguments: str, line: str, said: str
) -> None:
    write_hook(folder, f"@{hook_type}", arguments, line)
    serve().run(sent(hook_type))
    (warning,) = warnings(caplog)
    assert said in warning
    assert f"hook hook of bundle foo ({folder}/foo/middleware.py:2)" in warning


TAKEN = [
    ("Pre", REQUEST, ['request.object.raw_body = b"x"', 'request.object.body = "x"']),
    ("Pre", REQUEST, ['request.add_header("a", "1")', 'request.object.headers["A"] = "1"']),
    ("Pre", REQUEST, ['request.delete_header("x-one")', 'del request.object.headers["X-One"]']),
    ("Pre", REQUEST, ['request.add_param("c", "1")', 'request.object.params["c"] = "1"']),
    ("Pre", REQUEST, ['request.add_param("c", "1")', 'request.object.url = "/path?b=2&a=1&c=1"']),
    ("Pre", REQUEST, ['request.object.url = "/other"']),
    ("Pre", REQUEST, ['request.object.url = "/other?a=1&b=2"']),
    ("Pre", REQUEST, ['request.object.method = "POST"', "request.object.return_overrides.response_code = 418"]),
    ("PostKeyAuth", FULL, ['metadata.get("a")', "session.access_rights"]),
    ("CustomKeyCheck", FULL, ['metadata["token"] = "t"', "session.rate = 5.0"]),
    ("CustomKeyCheck", REQUEST, ['session.metadata["token"] = "t"']),
    ("CustomKeyCheck", FULL, ["request.object.return_overrides.response_code = 401"]),
    ("CustomKeyCheck", FULL, ["session.rate = 5.0"]),
    ("Pre", REQUEST, ["request.object.return_overrides.response_code = 100"]),
    ("Pre", REQUEST, ["request.object.return_overrides.response_code = 999"]),
    ("Response", RESPONSE, ['response.raw_body = b"x"', 'response.body = "x"', 'response.headers.pop("Server")']),
    ("Response", RESPONSE, ['response.multivalue_headers.add(key="A", values=["1", "2"])']),
    ("Response", RESPONSE, ['response.headers["A"] = "1"', 'response.multivalue_headers.add(key="A", values=["1"])']),
]


@pytest.mark.parametrize(("hook_type", "arguments", "lines"), TAKEN, ids=["; ".join(row[2]) for row in TAKEN])
def test_applied_changes_are_not_reported(
    folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture, hook_type: str, arguments: str, lines: list[str]
) -> None:
    write_hook(folder, f"@{hook_type}", arguments, *lines)
    serve().run(sent(hook_type))
    assert warnings(caplog) == []


REWRITTEN = [
    ('request.object.url = "/path"', "answers 500 for a path alone"),
    ('request.add_param("a", "1")', "ignores add_param and delete_param"),
    ('request.delete_param("a")', "ignores add_param and delete_param"),
    ('request.object.url = "http://other/path?a=2"', ""),
]


@pytest.mark.parametrize(("line", "said"), REWRITTEN, ids=[row[0] for row in REWRITTEN])
def test_after_a_url_rewrite_the_whole_url_counts(
    folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture, line: str, said: str
) -> None:
    write_hook(folder, "@Post", REQUEST, line)
    rewritten = sent("Post")
    rewritten.request.url = "http://upstream/path?a=1"
    serve().run(rewritten)
    assert [said in warning for warning in warnings(caplog)] == ([True] if said else [])


def test_an_auth_hook_that_refuses_a_key_is_not_reported(
    folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "@CustomKeyCheck", FULL, 'if request.get_header("Right"): metadata["token"] = "t"')
    served = serve()
    right = sent("CustomKeyCheck")
    right.request.headers["Right"] = "1"
    served.run(right)
    for _ in range(sampled_checks.FIRST_CALLS + sampled_checks.LATER_CALLS):
        served.run(sent("CustomKeyCheck"))
    assert warnings(caplog) == []


def test_an_auth_hook_that_never_leaves_a_token_is_reported(
    folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    write_hook(folder, "@CustomKeyCheck", FULL, "session.rate = 5.0")
    served = serve()
    for _ in range(sampled_checks.FIRST_CALLS - 1):
        served.run(sent("CustomKeyCheck"))
    assert warnings(caplog) == []
    served.run(sent("CustomKeyCheck"))
    (warning,) = warnings(caplog)
    assert "this hook never leaves one" in warning


def test_a_header_only_in_multivalue_headers_may_be_lost(
    folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    lines = 'response.headers["A"] = "1"', 'response.multivalue_headers.add(key="B", values=["1"])'
    write_hook(folder, "@Response", RESPONSE, *lines)
    serve().run(sent("Response"))
    (warning,) = warnings(caplog)
    assert "drops headers that are only in response.multivalue_headers" in warning


def test_a_chain_is_checked_hook_by_hook(folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    write_hook(folder, "@Pre", REQUEST, "session.rate = 5.0")
    served = serve()
    chained = sent("Pre")
    chained.hook_name = "*"
    served.run(chained)
    assert len(warnings(caplog)) == 1


def test_an_async_hook_is_checked(folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    text = '@Pre\nasync def hook(request, session, spec):\n    request.object.body = "x"\n    return request, session\n'
    write_bundle(folder / "foo", {"middleware.py": text})
    serve().run(sent("Pre"))
    assert len(warnings(caplog)) == 1


def test_a_hook_that_fails_is_not_checked(folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    write_hook(folder, '@Pre(on_error="continue")', REQUEST, 'request.object.body = "x"', "raise ValueError")
    serve().run(sent("Pre"))
    assert [warning for warning in warnings(caplog) if "ignores" in warning] == []


def hook_of(served: Served) -> Hook:
    return Lookup(served.store).hook("", "hook")


def test_each_kind_is_reported_once_per_interval(folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    write_hook(folder, "@Pre", REQUEST, 'request.object.body = "x"', "session.rate = 5.0")
    served = serve()
    for _ in range(3):
        served.run(sent("Pre"))
    assert len(warnings(caplog)) == 2
    hook = hook_of(served)
    changed = sent("Pre")
    changed.request.body = "x"
    until = hook.silent_until["request-body"]
    sampled_checks.end(hook, sent("Pre"), changed, clock=lambda: until - 1)
    assert len(warnings(caplog)) == 2
    sampled_checks.end(hook, sent("Pre"), changed, clock=lambda: until)
    assert len(warnings(caplog)) == 3
    assert hook.silent_until["request-body"] == until + sampled_checks.REPEAT_AFTER_S


def test_only_a_few_later_calls_are_checked(folder: Path, serve: Serve) -> None:
    write_hook(folder, "@Pre", REQUEST, 'request.add_header("a", "1")')
    served = serve()
    looked = []
    for call in range(1, sampled_checks.FIRST_CALLS + 2 * sampled_checks.LATER_CALLS + 1):
        before = hook_of(served).looks
        served.run(sent("Pre"))
        if hook_of(served).looks > before:
            looked.append(call)
    first = list(range(1, sampled_checks.FIRST_CALLS + 1))
    later = [sampled_checks.FIRST_CALLS + count * sampled_checks.LATER_CALLS for count in (1, 2)]
    assert looked == first + later


def test_a_change_in_a_later_call_is_found(folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    write_hook(folder, "@Pre", REQUEST, 'if request.get_header("Late"): request.object.body = "x"')
    served = serve()
    for _ in range(sampled_checks.FIRST_CALLS):
        served.run(sent("Pre"))
    late = sent("Pre")
    late.request.headers["Late"] = "1"
    for _ in range(sampled_checks.LATER_CALLS):
        served.run(late)
    assert len(warnings(caplog)) == 1


def test_events_are_never_checked(folder: Path, serve: Serve) -> None:
    write_bundle(folder / "foo", {"middleware.py": "@Event\ndef handler(event, spec):\n    pass\n"})
    hook = Lookup(serve().store).event_handler("handler", None)
    for _ in range(3):
        asyncio.run(run_event(hook))
    assert hook.looks == 0


async def run_event(hook: Hook) -> None:
    from tyk.event import TykEvent
    from tykpy.workers.dispatch.invocation import run_hook

    await run_hook(hook, TykEvent.from_json('{"handler_name": "handler", "message": {}, "spec": {}}'))
