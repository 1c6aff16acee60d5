"""What the inspector shows and copies of a request."""

import json

import pytest

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.devserver.hooks.contract import HookAnswer, Printed, Problem
from tykpy.devserver.inspector.curl import curl_command
from tykpy.devserver.inspector.details import MAX_ITEMS, MAX_TEXT, details
from tykpy.devserver.inspector.hook_tests import pytest_code
from tykpy.devserver.messages import GatewayRequest
from tykpy.devserver.trace import HandlerCall, HookCall, Trace

SECRET = "s3cret-value"


def called(name: str, sent: Object, answer: HookAnswer) -> Trace:
    """Return the trace of a request whose secrets are everywhere."""
    request = GatewayRequest(url="/x", headers={"Authorization": [SECRET], "X-Other": [f"copy of {SECRET}"]})
    return Trace(1, request, steps=[HookCall("Pre", name, sent, answer)])


def test_secrets_are_masked_wherever_they_occur() -> None:
    sent, returned = Object(), Object()
    sent.request.headers["Authorization"] = SECRET
    returned.session.hmac_secret = "of a session"
    returned.response.multivalue_headers.add(key="X", values=[SECRET])
    trace = called("hook", sent, HookAnswer(returned, printed=(Printed("stdout", f"key={SECRET}"),)))
    shown = json.dumps(details(trace))
    assert SECRET not in shown
    assert "of a session" not in shown
    assert shown.count("\\u2022") > 3
    assert json.dumps(details(trace, with_secrets=True)).count(SECRET) > 3


def test_long_texts_and_lists_are_cut_and_say_so() -> None:
    sent = Object()
    for number in range(MAX_ITEMS + 5):
        sent.request.headers[f"X-{number}"] = "x"
    lines = (Printed("stdout", "y" * (MAX_TEXT + 1)), *[Printed("stdout", "z")] * MAX_ITEMS)
    (step,) = details(called("hook", sent, HookAnswer(Object(), printed=lines)))["steps"]
    assert step["before"]["request"]["headers"]["…"] == "5 more"
    assert step["printed"][-1] == {"more": 1}
    assert step["printed"][0]["text"] == f"{'y' * MAX_TEXT}… (16,385 characters)"
    assert len(step["changes"]) == MAX_ITEMS + 1


def test_halves_of_surrogate_pairs_become_text() -> None:
    trace = Trace(1, GatewayRequest(url="/\udcff", headers={"X": ["\udc80"]}))
    assert json.dumps(details(trace), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (GatewayRequest(url="*", method="OPTIONS"), "http://here/ \\\n  --request OPTIONS"),
        (GatewayRequest(url="*", method="OPTIONS"), "--request-target '*'"),
        (GatewayRequest(headers={"X": [""]}), "--header 'X;'"),
        (GatewayRequest(headers={"X": ["\udcff\x1b'"]}), r"--header $'X: \xff\x1b\''"),
        (GatewayRequest(headers={"Accept-Encoding": ["gzip"]}), "--compressed"),
        (GatewayRequest(body=b"a\nb"), "--data-raw 'a\nb'"),
        (GatewayRequest(body=b"\0"), "printf %s AA== | base64 --decode | curl"),
        (GatewayRequest(body=b"x" * 70_000), "curl --silent http://here/body | curl"),
        (GatewayRequest(method="HEAD", body=b"x"), "--head"),
    ],
)
def test_commands_for_shells(request_: GatewayRequest, part: str) -> None:
    assert part in curl_command(request_, "here", "/body")


def test_a_test_expects_what_was_removed() -> None:
    sent, returned = Object(), Object()
    sent.response.headers.update({"Server": "x", "Date": "y"})
    sent.response.body = "z"
    sent.session.tags.extend(["a", "b"])
    returned.response.headers["Date"] = "y"
    returned.session.tags.append("a")
    code = pytest_code(called("hook", sent, HookAnswer(returned)), {"hook": "lib.hooks"})
    assert code.startswith("from tykpy.testing import HookCaller\n\nfrom lib.hooks import hook\n")
    assert 'assert "Server" not in result.received.response.headers' in code
    assert "assert not result.received.response.body\n" in code
    assert "assert len(result.received.session.tags) <= 1" in code
    compile(code, "test", "exec")


@pytest.mark.parametrize("name", ["x; print()", "a\nb", "é\udcff", "", "class"])
def test_hooks_that_no_test_can_call_become_comments(name: str) -> None:
    code = pytest_code(called(name, Object(), HookAnswer(Object())), {})
    assert code.count("import ") == 1
    assert "is not called: its name cannot be imported" in code
    compile(code, "test", "exec")


def test_a_hook_that_gave_no_answer_becomes_a_comment() -> None:
    answer = HookAnswer(problem=Problem("UNAVAILABLE", "the process ended\nwith exit code 7"))
    code = pytest_code(called("hook", Object(), answer), {})
    assert r"# hook is not called: the process ended\nwith exit code 7" in code
    compile(code, "test", "exec")


def test_a_handler_that_cannot_be_called_is_a_comment() -> None:
    missing = HookAnswer(problem=Problem("NOT_FOUND", "no handler log"))
    trace = Trace(1, GatewayRequest(), events=[HandlerCall("AuthFailure", "log", '{"message": {}}', missing)])
    code = pytest_code(trace, {})
    assert "# log is not called: no handler log\n    pass" in code
    assert "TriggeredEvent" not in code
    compile(code, "test", "exec")


@pytest.mark.parametrize(
    ("host", "url", "expected"),
    [
        ("localhost:8080", "/a", "/a"),
        ("api.test", "/a", "http://api.test/a"),
        ("api.test", "http://upstream/a", "http://upstream/a"),
    ],
)
def test_a_test_names_hosts_that_matter(host: str, url: str, expected: str) -> None:
    sent = Object()
    sent.request.url, sent.request.headers["Host"] = url, host
    assert f'url="{expected}"' in pytest_code(called("hook", sent, HookAnswer(Object())), {})
