"""Section 7: edges of the reply."""

import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway.fixed_reply import FixedServer
from tests.support.gateway.table import Table
from tests.support.gateway.tyk import any_gateway
from tyk.proto.coprocess_object_pb2 import Object

XML = "application/xml"


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        ("pre", Object()),
        ("pre", Object(request={"url": "/"})),
        ("response", Object(request={"return_overrides": {}})),
    ],
    ids=["no request", "no return_overrides", "no response"],
)
def test_an_incomplete_reply_crashes_the_gateway_or_is_error_500(tmp_path: Path, kind: str, reply: Object) -> None:
    middleware = {"driver": "grpc", kind: [{"name": "any"}]}
    with FixedServer(reply.SerializeToString()) as server, any_gateway(tmp_path, server.address) as gateway:
        api = gateway.add_api({"api_id": "a", "listen_path": "/a/", "custom_middleware": middleware})
        if kind == "pre":
            with pytest.raises(http.client.RemoteDisconnected):
                api.send()
            assert "nil pointer dereference" in gateway.log
        else:
            answer = api.send()
            assert (answer.status, answer.json) == (500, {"error": "Middleware error"})


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_our_reply_always_has_request_and_return_overrides(table: Table, kind: str) -> None:
    assert table.api("changes", hooks={kind: ["clear_overrides"]}).send().upstream.method == "GET"
    emptied = """
        from tyk.decorators import *

        @Hook
        def empty_everything(request, session, spec):
            url, method = request.object.url, request.object.method
            request.object.Clear()
            request.object.url, request.object.method = url, method
            return request, session
        """
    received = (
        table.api({"middleware.py": emptied}, hooks={kind: ["empty_everything"]}).send("POST", body=b"x").upstream
    )
    assert (received.method, received.body) == ("POST", b"")


def test_set_headers_replaces_all_values_of_a_header(table: Table) -> None:
    sent = [("X-Many", "1"), ("X-Many", "2")]
    assert table.api("changes", pre=["pass_through"]).send(headers=sent).upstream.headers["X-Many"] == ["1", "2"]
    assert table.api("changes", pre=["change_headers"]).send(headers=sent).upstream.headers["X-Many"] == ["one only"]


def test_query_changes_inside_url_are_overwritten(table: Table) -> None:
    api = table.api("changes", pre=["set_url", "change_params"])
    headers = [("X-Url", f"{api.path}/new?from=hook")]
    assert api.send(path="/echo?from=client&gone=1", headers=headers).upstream.url == (
        "/new?both=set&from=client&new=a+b%26c"
    )


def test_read_only_fields_of_the_reply_are_ignored(table: Table) -> None:
    received = table.api("changes", pre=["set_what_is_ignored"]).send("POST", "/echo?a=1", body=b"kept").upstream
    assert (received.url, received.body) == ("/echo?a=1", b"kept")
    assert "X-Ignored" not in received.headers


def override(table: Table, content_type: str, **overrides: Any) -> tuple[str | None, bytes]:
    """Return content type and body of an answer that a Pre hook gives."""
    headers = [("X-Override", json.dumps(overrides)), ("Content-Type", content_type)]
    answer = table.api("changes", pre=["override"]).send(headers=headers)
    return answer.value("Content-Type"), answer.body


def test_up_to_v5_14_a_quote_in_an_error_is_not_json(table: Table) -> None:
    api = table.api("changes", pre=["override"])
    answer = api.send(headers=[("X-Override", json.dumps({"response_code": 400, "response_error": "it's wrong"}))])
    assert (answer.status, answer.body) == (400, b'{\n    "error": "it\\\'s wrong"\n}')


@pytest.mark.parametrize(
    ("content_type", "answered_as", "body"),
    [
        ("application/json", "application/json", b'{\n    "error": "no"\n}'),
        ("text/plain", "application/json", b'{\n    "error": "no"\n}'),
        (XML, XML, b'<?xml version = "1.0" encoding = "UTF-8"?>\n<error>no</error>'),
        ("text/xml; charset=utf-8", "text/xml", b'<?xml version = "1.0" encoding = "UTF-8"?>\n<error>no</error>'),
    ],
)
def test_a_code_from_400_goes_through_the_error_template(
    table: Table, content_type: str, answered_as: str, body: bytes
) -> None:
    assert override(table, content_type, response_code=400, response_error="no") == (answered_as, body)


def test_override_headers_are_single_valued_and_the_body_is_text(table: Table) -> None:
    headers = {"Content-Type": "text/html; charset=utf-8", "X-One": "1, 2"}
    sent = [("X-Override", json.dumps({"response_code": 200, "response_body": "\u00fc", "headers": headers}))]
    answer = table.api("changes", pre=["override"]).send(headers=sent)
    assert (answer.body, answer.values("X-One")) == ("ü".encode(), ["1, 2"])
    assert answer.value("Content-Type") == headers["Content-Type"]


def test_hooks_run_in_the_gateways_order_not_the_bundles(table: Table) -> None:
    hooks = {
        "response": ["mark_response"],
        "post": ["mark_post"],
        "post_key_auth": ["mark_post_key_auth"],
        "auth_check": "mark_auth",
        "pre": ["mark_pre"],
    }
    api = table.api({"middleware.py": MARKS}, hooks=hooks)
    answer = api.send()
    assert answer.value("X-Order") == "pre,auth,post_key_auth,post,response"
    assert [kind for kind, _ in api.dispatches()] == ["Pre", "CustomKeyCheck", "PostKeyAuth", "Post", "Response"]


def test_a_star_runs_the_whole_chain_in_one_call(table: Table) -> None:
    code = """
        from tyk.decorators import *

        def appended(request, text):
            request.add_header("X-Order", (request.get_header("X-Order") or "") + text)

        @Pre
        def starred_first(request, session, spec):
            appended(request, "1")
            return request, session

        @Pre
        def starred_second(request, session, spec):
            appended(request, "2")
            request.object.raw_body += b"2"
            return request, session
        """
    single = table.api({"middleware.py": code}, pre=["starred_first", "starred_second"])
    chained = table.api({"middleware.py": code}, pre=["*"])
    seen = [api.send("POST", body=b"x").upstream for api in (single, chained)]
    assert seen[0] == seen[1]
    assert (seen[1].headers["X-Order"], seen[1].body) == (["12"], b"x2")
    assert chained.dispatches() == [("Pre", "*")]


MARKS = """
from tyk.decorators import *
from tyk.decorators import Response

def mark(request, name):
    request.add_header("X-Order", ",".join(filter(None, [request.get_header("X-Order"), name])))

@Pre
def mark_pre(request, session, spec):
    mark(request, "pre")
    return request, session

@CustomKeyCheck
def mark_auth(request, session, metadata, spec):
    mark(request, "auth")
    metadata["token"] = "in-order"
    return request, session, metadata

@PostKeyAuth
def mark_post_key_auth(request, session, spec):
    mark(request, "post_key_auth")
    return request, session

@Post
def mark_post(request, session, spec):
    mark(request, "post")
    return request, session

@Response
def mark_response(request, response, session, metadata, spec):
    response.headers["X-Order"] = request.get_header("X-Order") + ",response"
    return response
"""
