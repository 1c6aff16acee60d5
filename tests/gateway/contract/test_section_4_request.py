"""Section 4: how hooks change the request, and how they answer in place of the upstream."""

import json
from typing import Any

import pytest

from tests.support.gateway.gateway import Answer, Api
from tests.support.gateway.table import Table


def overriding(table: Table, kind: str = "pre", definition: dict[str, Any] | None = None) -> Api:
    """Add an API whose hook of this kind overrides the answer as the request asks."""
    hooks: Any = {"auth_check": "override"} if kind == "auth_check" else {kind: ["override"]}
    if kind == "post_key_auth":
        hooks["auth_check"] = "let_in"
    return table.api("changes", definition=definition, hooks=hooks)


def override(api: Api, **overrides: Any) -> Answer:
    """Send a request that asks its hook for this answer."""
    return api.send(headers=[("X-Override", json.dumps(overrides))])


@pytest.mark.parametrize(
    "body",
    [b'{"a": [1, 2.5, "\xc3\xbc"]}', "grüße".encode(), bytes(range(256)), b""],
    ids=["JSON", "UTF-8", "binary", "empty"],
)
def test_the_body_becomes_raw_body(table: Table, body: bytes) -> None:
    api = table.api("changes", pre=["set_raw_body"])
    received = api.send("POST", headers=[("X-Body", body.hex())], body=b"of the client").upstream
    assert received.body == body


@pytest.mark.parametrize("body", [b'{"a": 1}', "grüße".encode(), bytes(range(256)), b""])
def test_an_unchanged_body_is_passed_on_as_is(table: Table, body: bytes) -> None:
    assert table.api("changes", pre=["pass_through"]).send("POST", body=body).upstream.body == body


def test_changing_only_body_changes_nothing(table: Table) -> None:
    assert table.api("changes", pre=["set_only_body"]).send("POST", body=b"client").upstream.body == b"client"


def test_headers_are_deleted_first_and_then_set(table: Table) -> None:
    sent = [("X-Gone", "1"), ("X-Both", "of the client"), ("X-Stays", "1")]
    headers = table.api("changes", pre=["change_headers"]).send(headers=sent).upstream.headers
    assert "X-Gone" not in headers
    assert (headers["X-Both"], headers["X-New"], headers["X-Stays"]) == (["set"], ["new"], ["1"])


def test_params_are_deleted_first_and_then_set(table: Table) -> None:
    received = table.api("changes", pre=["change_params"]).send(path="/echo?gone=1&both=1&both=2&stays=3").upstream
    assert received.url == "/echo?both=set&new=a+b%26c&stays=3"


def test_the_url_becomes_request_url(table: Table) -> None:
    api = table.api("changes", pre=["set_url"])
    assert api.send(headers=[("X-Url", f"{api.path}/some/where%20else")]).upstream.url == "/some/where%20else"


@pytest.mark.parametrize("url", ["", "no-slash", "http://[bad", "/%zz"])
def test_a_url_that_does_not_parse_is_error_500(table: Table, url: str) -> None:
    api = table.api("changes", pre=["set_url"])
    answer = api.send(headers=[("X-Url", url)])
    assert (answer.status, answer.json) == (500, {"error": "Middleware error"})
    assert api.received() == []


def test_the_method_becomes_request_method(table: Table) -> None:
    received = (
        table.api("changes", pre=["set_method"]).send("POST", headers=[("X-Method", "PATCH")], body=b"b").upstream
    )
    assert (received.method, received.body) == ("PATCH", b"b")


def test_response_error_is_copied_over_response_body(table: Table) -> None:
    api = overriding(table)
    answer = override(api, response_code=200, response_body="body", response_error="error")
    assert answer.body == b"error"
    assert override(api, response_code=200, response_body="body").body == b"body"


@pytest.mark.parametrize("kind", ["pre", "auth_check", "post_key_auth", "post"])
def test_a_code_from_400_fails_the_request_with_auth_failure(table: Table, kind: str) -> None:
    handler = {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": f"nobody-{kind}"}}
    api = overriding(table, kind, {"event_handlers": {"events": {"AuthFailure": [handler]}}})
    answer = override(api, response_code=418, response_error="a teapot", headers={"X-Tea": "green"})
    assert (answer.status, answer.json, answer.value("X-Tea")) == (418, {"error": "a teapot"}, "green")
    assert api.received() == []
    assert [name for name, _ in api.events(1)] == [f"nobody-{kind}"]


def test_a_code_from_400_without_a_body_says_key_not_authorised(table: Table) -> None:
    assert override(overriding(table), response_code=403).json == {"error": "Key not authorised"}


@pytest.mark.parametrize("kind", ["pre", "auth_check", "post_key_auth", "post"])
def test_another_code_answers_at_once_with_headers_and_body(table: Table, kind: str) -> None:
    api = overriding(table, kind)
    answer = override(api, response_code=201, response_body="made", headers={"Location": "/made", "X-Two": "2"})
    assert (answer.status, answer.body) == (201, b"made")
    assert (answer.value("Location"), answer.value("X-Two")) == ("/made", "2")
    assert api.received() == []


def test_a_redirect_is_an_override_like_any_other(table: Table) -> None:
    answer = override(overriding(table), response_code=302, headers={"Location": "https://example.com/"})
    assert (answer.status, answer.value("Location"), answer.body) == (302, "https://example.com/", b"")


def test_override_error_answers_with_the_body_unchanged(table: Table) -> None:
    api = overriding(table)
    answer = override(api, response_code=503, response_body="<b>later</b>", override_error=True, headers={"X-A": "1"})
    assert (answer.status, answer.body, answer.value("X-A")) == (503, b"<b>later</b>", "1")
    assert api.received() == []


def test_an_override_keeps_later_hooks_from_running(table: Table) -> None:
    api = table.api("changes", pre=["override", "pass_through"], post=["pass_through"])
    assert override(api, response_code=200).status == 200
    assert api.dispatches() == [("Pre", "override")]


def test_a_code_of_zero_or_minus_one_overrides_nothing(table: Table) -> None:
    api = overriding(table)
    for code in (0, -1):
        assert override(api, response_code=code, response_body="ignored").upstream.method == "GET"


def test_our_error_is_error_500(table: Table) -> None:
    for kind in ("pre", "post_key_auth", "post"):
        access: dict[str, Any] = {"auth_check": "let_in"} if kind == "post_key_auth" else {}
        answer = table.api("changes", hooks={kind: ["fail"], **access}).send()
        assert (answer.status, answer.json) == (500, {"error": "Middleware error"})


def test_our_error_in_custom_key_check_is_error_403(table: Table) -> None:
    answer = table.api("auth", auth_check="fail").send()
    assert (answer.status, answer.json) == (403, {"error": "Key not authorised"})
