"""Section 4: sessions, tokens and metadata."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway.fixed_reply import FixedServer
from tests.support.gateway.table import OF_POLICY, ORG, Table
from tyk.proto.coprocess_object_pb2 import Object

ALL_TYPES = {
    "last_check": 1,
    "allowance": 1.5,
    "rate": 1000.0,
    "per": 1.25,
    "expires": 4_102_444_800,
    "quota_max": 2**53 + 1,
    "quota_renewal_rate": 60,
    "oauth_client_id": "client",
    "hmac_enabled": True,
    "hmac_secret": "secret",
    "data_expires": 3,
    "enable_detailed_recording": True,
    "tags": ["a", "b"],
    "alias": "Jürgen",
    "last_updated": "1700000000",
    "session_lifetime": 3600,
}
STORED_AS = {"hmac_secret": "hmac_string"}


@pytest.mark.parametrize("hook", ["token_by_metadata", "token_by_session_metadata", "token_in_three_arguments"])
def test_the_token_of_the_metadata_is_the_key(table: Table, hook: str) -> None:
    api = table.api("auth", auth_check=hook, post=["show_session"])
    received = api.send(headers=[("Authorization", f"by-{hook}")]).upstream
    assert json.loads(received.headers["X-Session-Metadata"][0]) == {"token": f"by-{hook}"}
    assert table.session(f"by-{hook}")["meta_data"] == {"token": f"by-{hook}"}


@pytest.mark.parametrize("hook", ["no_token", "nothing_at_all"])
def test_without_a_session_or_a_token_the_answer_is_403(table: Table, hook: str) -> None:
    api = table.api("auth", auth_check=hook)
    answer = api.send(headers=[("Authorization", "unused")])
    assert (answer.status, answer.json) == (403, {"error": "Forbidden"})
    assert api.received() == []
    assert table.session("unused") is None


def test_the_returned_session_is_stored_as_the_keys_session(table: Table) -> None:
    api = table.api("auth", auth_check="fill")
    headers = [("Authorization", "filled"), ("X-Session", json.dumps(ALL_TYPES).encode().decode("latin-1"))]
    assert api.send(headers=headers).status == 200
    stored = table.session("filled")
    stored["tags"].sort()  # a gateway keeps them as a set
    expected = {STORED_AS.get(name, name): value for name, value in ALL_TYPES.items()}
    assert {name: stored[name] for name in expected} == expected
    assert stored["org_id"] == ORG


def test_policies_of_the_returned_session_are_applied(table: Table) -> None:
    api = table.api("auth", auth_check="fill", post=["show_session"], definition={"api_id": OF_POLICY})
    session = {"apply_policies": ["gold"], "rate": 1.0}
    received = api.send(headers=[("Authorization", "golden"), ("X-Session", json.dumps(session))]).upstream
    stored = table.session("golden")
    assert (stored["rate"], stored["quota_max"]) == (1000.0, 500)
    assert received.headers["X-Remaining"] == ["499"]


def test_an_unknown_policy_is_error_403(table: Table) -> None:
    session = json.dumps({"apply_policies": ["tin"]})
    answer = table.api("auth", auth_check="fill").send(headers=[("Authorization", "t"), ("X-Session", session)])
    assert (answer.status, answer.json) == (403, {"error": "Forbidden"})


def quota_requests(table: Table, key: str, count: int) -> list[Any]:
    """Send `count` requests with a quota of two."""
    api = table.api("auth", auth_check="fill", post=["show_session"])
    session = json.dumps({"quota_max": 2, "quota_renewal_rate": 3600, "quota_remaining": 2})
    return [api.send(headers=[("Authorization", key), ("X-Session", session)]) for _ in range(count)]


def test_the_quota_is_kept_from_the_stored_session(table: Table) -> None:
    answers = quota_requests(table, "with-quota", 2)
    assert [answer.upstream.headers["X-Remaining"] for answer in answers] == [["1"], ["0"]]
    stored = table.session("with-quota")
    assert (stored["quota_max"], stored.get("quota_remaining", 0)) == (2, 0)
    renews = stored["quota_renews"]
    assert renews > 0
    assert quota_requests(table, "with-quota", 1)[0].status == 403
    assert table.session("with-quota")["quota_renews"] == renews


def test_a_session_without_quota_left_is_refused(table: Table) -> None:
    answers = quota_requests(table, "no-quota", 3)
    assert [answer.status for answer in answers] == [200, 200, 403]
    assert answers[2].json == {"error": "Quota exceeded"}


def test_a_refusal_of_custom_key_check_stores_nothing(table: Table) -> None:
    answer = table.api("auth", auth_check="refuse").send(headers=[("Authorization", "refused")])
    assert (answer.status, answer.json) == (401, {"error": "who are you?"})
    assert table.session("refused") is None


def test_access_rights_decide_after_post_key_auth(table: Table) -> None:
    answer = table.api("auth", auth_check="without_access").send(headers=[("Authorization", "elsewhere")])
    assert (answer.status, answer.json) == (403, {"error": "Access to this API has been disallowed"})


def test_allowed_urls_come_back_doubled_with_empty_entries(table: Table) -> None:
    api = table.api("auth", auth_check="with_access_rights")
    assert api.send(headers=[("Authorization", "with-rights")]).status == 200
    (right,) = table.session("with-rights")["access_rights"].values()
    assert [entry["url"] for entry in right["allowed_urls"]] == ["", "", "/a", "/b"]
    assert right["allowed_urls"][3]["methods"] == ["GET", "POST"]


@pytest.mark.parametrize("kind", ["pre", "post_key_auth", "post"])
def test_session_changes_outside_custom_key_check_are_dropped(table: Table, kind: str) -> None:
    files = {"middleware.py": AUTH_AND_CHANGE}
    api = table.api(files, auth_check="let_in", hooks={kind: ["change_session"]}, response=["show_session"])
    answer = api.send(headers=[("Authorization", f"kept-{kind}")])
    assert json.loads(answer.value("X-Session") or "") == ["of the auth hook", {"token": f"kept-{kind}"}]
    stored = table.session(f"kept-{kind}")
    assert (stored["alias"], stored["meta_data"]) == ("of the auth hook", {"token": f"kept-{kind}"})


AUTH_AND_CHANGE = """
import json
from tyk.decorators import *
from tyk.decorators import Response

@CustomKeyCheck
def let_in(request, session, metadata, spec):
    session.alias = "of the auth hook"
    metadata["token"] = request.get_header("Authorization")
    return request, session, metadata

@Hook
def change_session(request, session, metadata, spec):
    session.alias = "changed"
    metadata["more"] = "changed"
    return request, session, metadata

@Response
def show_session(request, response, session, metadata, spec):
    response.headers["X-Session"] = json.dumps([session.alias, dict(metadata)])
    return response
"""


def test_metadata_of_the_object_wins_over_that_of_the_session(table: Table, tmp_path: Path) -> None:
    reply = Object(request={"url": "/a/", "method": "GET", "return_overrides": {}})
    reply.session.metadata.update({"token": "of-the-session", "only": "here"})
    reply.metadata["token"] = "of-the-object"
    middleware = {"driver": "grpc", "auth_check": {"name": "any"}}
    with (
        FixedServer(reply.SerializeToString()) as server,
        table.gateway.another(tmp_path, server.address) as gateway,
    ):
        api = gateway.add_api({"api_id": "a", "listen_path": "/a/", "custom_middleware": middleware})
        assert api.send().status == 200
        assert gateway.session("of-the-object")["meta_data"] == {"token": "of-the-object", "only": "here"}
        assert gateway.session("of-the-session") is None


def test_certificate_and_max_query_depth_are_never_filled(table: Table) -> None:
    code = """
        from tyk.decorators import *

        @CustomKeyCheck
        def with_certificate(request, session, metadata, spec):
            session.certificate = "a certificate"
            session.max_query_depth = 5
            metadata["token"] = "certified"
            return request, session, metadata

        @Post
        def show_certificate(request, session, metadata, spec):
            request.add_header("X-Filled", f"{session.certificate}|{session.max_query_depth}|{session.alias}")
            return request, session, metadata
        """
    api = table.api({"middleware.py": code}, auth_check="with_certificate", post=["show_certificate"])
    assert api.send().upstream.headers["X-Filled"] == ["|0|"]
