"""Section 8: behaviour seen behind a real gateway that is easily misunderstood."""

import base64
import http.client
import json
from typing import Any

import pytest

from tests.support.gateway.gateway import Api
from tests.support.gateway.table import Table

LATIN_1 = [("X-Name", "J\xfcrgen")]
EMPTY_SESSION: dict[str, Any] = {"basic_auth_data": {}, "jwt_data": {}, "monitor": {}}
HOST = """
    from tyk.decorators import *

    @Pre
    def set_host(request, session, spec):
        request.add_header("Host", "elsewhere.example")
        return request, session

    @Pre
    def keep_host(request, session, spec):
        request.add_header("X-Host", request.get_header("Host"))
        return request, session
    """


def test_response_hooks_always_have_a_session(table: Table) -> None:
    report = table.api("reports", response=["report_response"]).send().json
    assert (report["session"], report["metadata"]) == (EMPTY_SESSION, {})


def test_response_hooks_get_the_request_sent_to_the_upstream(table: Table) -> None:
    api = table.api("reports", response=["report_response"])
    report = api.send("POST", "/utf8?b=2&a=1", [("X-Mine", "1")], b"of the client").json
    request = report["request"]
    assert request["url"] == f"http://{table.gateway.upstream}/utf8?b=2&a=1"
    assert request["request_uri"] == f"{api.path}/utf8?b=2&a=1"
    assert (request["method"], request["headers"]["X-Mine"]) == ("POST", "1")
    assert base64.b64decode(report["raw_body"]) == b"of the client"


def test_an_override_skips_response_hooks(table: Table) -> None:
    api = table.api("changes", pre=["override"], response=["pass_through"])
    assert api.send(headers=[("X-Override", '{"response_code": 200}')]).status == 200
    assert api.dispatches() == [("Pre", "override")]


def test_the_query_is_re_encoded_only_if_a_hook_changed_it(table: Table) -> None:
    query = "z=1&a=%7e&b=c%20d&a=2"
    assert table.api("changes", pre=["pass_through"]).send(path=f"/echo?{query}").upstream.url == f"/echo?{query}"
    changed = table.api("changes", pre=["change_params"]).send(path=f"/echo?{query}").upstream
    assert changed.url == "/echo?a=~&a=2&b=c+d&both=set&new=a+b%26c&z=1"


def test_an_equivalent_query_in_url_is_sent_unchanged(table: Table) -> None:
    api = table.api("changes", pre=["set_url"])
    answer = api.send(path="/echo?a=1&b=2", headers=[("X-Url", f"{api.path}/new?b=2&a=%31")])
    assert answer.upstream.url == "/new?b=2&a=%31"


def rewritten(table: Table, rewrite_to: str, hook: str, *more: str) -> Api:
    """Add an API that rewrites GET /echo, with Post hooks that see the result."""
    rewrite = {"path": "/echo", "match_pattern": ".*", "rewrite_to": rewrite_to}
    return table.api("changes", post=[hook, *more], definition={"url_rewrite": rewrite})


def test_after_a_url_rewrite_a_post_hook_gets_its_target(table: Table) -> None:
    target = f"http://{table.gateway.upstream}/rewritten/%C3%BC?of=rewrite"
    rewrite = {"path": "/echo", "match_pattern": ".*", "rewrite_to": target}
    api = table.api("reports", post=["report_post"], definition={"url_rewrite": rewrite})
    request = api.send(path="/echo?of=client").json["request"]
    assert (request["url"], request["request_uri"]) == (target, "/rewritten/%C3%BC?of=rewrite")
    assert request["params"] == {"of": "client"}


def test_after_a_url_rewrite_the_whole_returned_url_counts(table: Table) -> None:
    target = f"http://{table.gateway.upstream}/rewritten?of=rewrite"
    kept = rewritten(table, target, "pass_through").send(path="/echo?of=client").upstream
    assert kept.url == "/rewritten?of=rewrite"
    new = f"http://{table.gateway.upstream}/of/hook?of=hook"
    changed = rewritten(table, target, "set_url", "pass_through").send(path="/echo?a=1", headers=[("X-Url", new)])
    assert changed.upstream.url == "/of/hook?of=hook"


def test_after_a_url_rewrite_changes_of_parameters_are_lost(table: Table) -> None:
    target = f"http://{table.gateway.upstream}/rewritten?gone=1"
    assert rewritten(table, target, "change_params").send().upstream.url == "/rewritten?gone=1"


def test_a_bare_path_after_a_rewrite_to_a_new_host_is_error_500(table: Table) -> None:
    api = rewritten(table, f"http://{table.gateway.upstream}/rewritten", "set_url")
    answer = api.send(headers=[("X-Url", "/path/alone")])
    assert (answer.status, api.received()) == (500, [])


def test_a_rewrite_to_a_path_shows_that_path(table: Table) -> None:
    api = rewritten(table, "/rewritten?of=rewrite", "set_url")
    assert api.send(headers=[("X-Url", "/of/hook?of=hook")]).upstream.url == "/of/hook?of=hook"


@pytest.mark.parametrize(("method", "sent"), [("PATCH", "PATCH"), ("", "GET")])
def test_a_post_hook_overrides_a_method_transform(table: Table, method: str, sent: str) -> None:
    code = """
        from tyk.decorators import *

        @Post
        def change_method(request, session, spec):
            request.add_header("X-Seen", request.object.method)
            request.object.method = request.get_header("X-Method")
            return request, session
        """
    transform = {"path": "/echo", "to_method": "PUT"}
    api = table.api({"middleware.py": code}, post=["change_method"], definition={"method_transform": transform})
    received = api.send(headers=[("X-Method", method)]).upstream
    assert (received.headers["X-Seen"], received.method) == (["PUT"], sent)


@pytest.mark.parametrize("overrides", [{"response_code": 99}, {"response_code": 1000, "override_error": True}])
def test_a_code_outside_100_to_999_drops_the_connection(table: Table, overrides: dict[str, Any]) -> None:
    api = table.api("changes", pre=["override"])
    with pytest.raises(http.client.RemoteDisconnected):
        api.send(headers=[("X-Override", json.dumps(overrides))])
    assert f"invalid WriteHeader code {overrides['response_code']}" in table.gateway.log


def test_a_host_in_set_headers_is_ignored(table: Table) -> None:
    received = table.api({"middleware.py": HOST}, pre=["set_host", "keep_host"]).send().upstream
    assert received.headers["X-Host"] == [table.gateway.public]
    assert received.host != "elsewhere.example"
    assert "Host" not in received.headers


@pytest.mark.parametrize(("path", "headers"), [("/echo", LATIN_1), ("/echo?name=J%FCrgen", [])])
def test_the_gateway_rejects_headers_and_params_not_in_utf8(
    table: Table, path: str, headers: list[tuple[str, str]]
) -> None:
    for hooks, status in (({"pre": ["pass_through"]}, 500), ({"auth_check": "pass_through"}, 403)):
        api = table.api("changes", hooks=hooks)
        assert (api.send(path=path, headers=headers).status, api.received()) == (status, [])


def test_keyless_apis_have_no_post_key_auth(table: Table) -> None:
    api = table.api("changes", pre=["pass_through"], post_key_auth=["pass_through"], post=["pass_through"])
    assert api.send().status == 200
    assert [kind for kind, _ in api.dispatches()] == ["Pre", "Post"]


def test_auth_hooks_need_custom_authentication_in_the_api(table: Table) -> None:
    api = table.api("reports", auth_check="let_in", definition={"use_standard_auth": True})
    assert api.send(headers=[("Authorization", "unknown-key")]).status == 403
    assert api.send().json == {"error": "Authorization field missing"}
    assert api.dispatches() == []


def test_an_ignored_path_skips_only_the_auth_hook(table: Table) -> None:
    hooks: dict[str, Any] = {
        "pre": ["pass_through"],
        "auth_check": "fail",
        "post_key_auth": ["pass_through"],
        "post": ["pass_through"],
    }
    api = table.api("changes", hooks=hooks, definition={"ignored": "/echo"})
    assert api.send().status == 200
    assert [kind for kind, _ in api.dispatches()] == ["Pre", "PostKeyAuth", "Post"]
    assert api.send(path="/other").status == 403


def test_the_stored_session_has_the_token_as_its_key_id(table: Table) -> None:
    api = table.api("reports", auth_check="let_in", response=["report_response"])
    report = api.send(headers=[("Authorization", "the-key-id")]).json
    assert (report["session"]["key_id"], report["session"]["org_id"]) == ("the-key-id", api.definition["org_id"])


def test_hooks_of_another_driver_never_arrive(table: Table) -> None:
    api = table.api("changes", pre=["pass_through"], driver="lua")
    answer = api.send()
    assert (answer.status, answer.json) == (500, {"error": "Internal Server Error"})
    assert api.dispatches() == []


def test_a_response_hook_that_fails_ends_the_chain(table: Table) -> None:
    api = table.api("responses", response=["fail", "nothing_changed"])
    assert api.send().status == 500
    assert [name for _, name in api.dispatches()] == ["fail"]
