"""What looks secret is masked where values are shown."""

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_session_state_pb2 import SessionState
from tykpy.devserver.hooks.contract import HookAnswer, Printed, Problem, SourceFrame, Triggered
from tykpy.devserver.hooks.masking import MASK, is_secret, is_secret_path, masked
from tykpy.devserver.inspector.details import details
from tykpy.devserver.messages import GatewayRequest
from tykpy.devserver.trace import HookCall, Note, Trace
from tykpy.devserver.views.error_page import error_page
from tykpy.devserver.views.terminal import TerminalView
from tykpy.traffic.redaction import DEFAULT


@pytest.mark.parametrize("name", ["password", "API_KEY", "X-Api-Key", "Authorization", "Set-Cookie", "refresh_token"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", DEFAULT)
def test_what_recordings_redact_is_masked(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["path", "Content-Type", "key", "user"])
def test_other_names(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    "text",
    [
        "{'Authorization': 'Bearer hunter2hunter2', 'Accept': '*/*'}",
        """{"Cookie": "a=hunter2", "n": 1}""",
        "{'password': b'it\\'s hunter2'}",
        "{'token': 'hunter2 that is cut",
        "Authorization: Bearer hunter2hunter2",
        "GET /orders?id=1&api_key=hunter2&x=1",
        str(MiniRequestObject(headers={"X-Api-Key": "hunter2"})),
        str(SessionState(hmac_secret="hunter2", basic_auth_data={"password": "hunter2"})),
    ],
)
def test_values_of_secrets_are_masked(text: str) -> None:
    shown = masked(text)
    assert "hunter2" not in shown
    assert MASK in shown


def test_the_rest_stays() -> None:
    assert masked("/orders?token=a&id=1") == f"/orders?token={MASK}&id=1"
    assert masked("{'Cookie': 'a', 'Accept': '*/*'}") == f"{{'Cookie': '{MASK}', 'Accept': '*/*'}}"


@pytest.mark.parametrize("path", ["session.hmac_secret", "request.headers['Cookie']", 'spec["token"]', "a['x'].token"])
def test_paths_of_secrets(path: str) -> None:
    assert is_secret_path(path)


@pytest.mark.parametrize("path", ["session.rate", "spec['token'].name", "request.headers['X-Id']", "tags[0]"])
def test_other_paths(path: str) -> None:
    assert not is_secret_path(path)


SECRET = "s3cret-value"
QUERY = "hunter2hunter2"


def trace_with_secrets() -> Trace:
    """Return the trace of a request whose secrets are everywhere, and whose hook prints what only looks like one."""
    request = GatewayRequest(url=f"/x?token={QUERY}", headers={"Authorization": [f"Bearer {SECRET}"]})
    returned = Object()
    returned.request.set_headers["X-Copy"] = f"of {SECRET}"
    returned.request.set_headers["X-Api-Key"] = "hunter2"
    frame = SourceFrame("m.py", 1, "hook", ((1, f"KEY = '{SECRET}'"),), (("key", f"'{SECRET}'"),), is_plugin=True)
    answer = HookAnswer(
        returned,
        Problem("HOOK_FAILED", f"no user has {SECRET}", f"KeyError: '{SECRET}'", (frame,)),
        (Printed("stdout", f"got {SECRET} and {QUERY}"), Printed("stdout", "{'password': 'is empty'}")),
        (Triggered("seen", f'{{"Key": "{SECRET}", "password": "hunter2"}}'),),
    )
    return Trace(1, request, steps=[HookCall("Pre", "hook", Object(), answer), Note("upstream", f"to {request.url}")])


def in_terminal(trace: Trace, *, show_secrets: bool = False) -> str:
    shown = io.StringIO()
    TerminalView(Console(file=shown, width=500), show_secrets=show_secrets).show(trace)
    return shown.getvalue()


def on_error_page(trace: Trace) -> str:
    return error_page(trace, [call.answer.problem for call in trace.hooks if call.answer.problem]).decode()


def in_inspector(trace: Trace) -> str:
    return json.dumps(details(trace), ensure_ascii=False)


@pytest.mark.parametrize("view", [in_terminal, on_error_page, in_inspector])
def test_every_view_masks_the_same(view: Callable[[Trace], str]) -> None:
    shown = view(trace_with_secrets())
    assert SECRET not in shown
    assert "hunter2" not in shown
    assert f"got {MASK} and {MASK}" in shown
    assert "is empty" in shown, "a line that was printed was masked by guess"


def test_the_terminal_tells_once_of_the_option() -> None:
    shown = io.StringIO()
    view = TerminalView(Console(file=shown, width=500))
    for number in (1, 2):
        trace = trace_with_secrets()
        trace.number = number
        view.show(trace)
    assert shown.getvalue().count("--show-secrets") == 1


def test_the_terminal_shows_secrets_if_asked() -> None:
    shown = in_terminal(trace_with_secrets(), show_secrets=True)
    assert MASK not in shown
    assert f"got {SECRET} and {QUERY}" in shown
    assert "'hunter2'" in shown
