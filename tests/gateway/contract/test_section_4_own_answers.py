"""Section 4: which hooks run where the gateway answers in place of the upstream."""

from typing import Any

import pytest

from tests.support.gateway.gateway import Answer, Api
from tests.support.gateway.table import Table

HOOKS: dict[str, Any] = {
    "pre": ["first"],
    "auth_check": "check",
    "post_key_auth": ["second"],
    "post": ["third"],
    "response": ["last"],
}
SOURCE = """
    from tyk.decorators import *
    from tyk.decorators import Response

    @Hook
    def first(request, session, spec):
        return request, session

    @Hook
    def second(request, session, spec):
        return request, session

    @Hook
    def third(request, session, spec):
        return request, session

    @CustomKeyCheck
    def check(request, session, metadata, spec):
        metadata["token"] = "somebody"
        return request, session, metadata

    @Response
    def last(request, response, session, metadata, spec):
        response.headers["X-Url"] = request.object.url
        response.raw_body += b", changed by the hook"
        return response
    """
BEFORE = [("Pre", "first"), ("CustomKeyCheck", "check"), ("PostKeyAuth", "second")]
OWN = {"path": "/own", "code": 203, "body": "of the gateway"}


def api_with(table: Table, **definition: Any) -> Api:
    """Add an API with a hook of each type."""
    return table.api({"middleware.py": SOURCE}, hooks=HOOKS, definition=definition)


def send(api: Api, path: str = "/own") -> Answer:
    return api.send(path=path, headers=[("Authorization", "somebody")])


@pytest.mark.parametrize("kind", ["mock_response", "virtual"])
def test_an_own_answer_skips_post_hooks_only(table: Table, kind: str) -> None:
    api = api_with(table, **{kind: OWN})
    answer = send(api)
    assert (answer.status, answer.body) == (203, b"of the gateway, changed by the hook")
    assert answer.value("X-Url") == f"{api.path}/own"
    assert api.dispatches() == [*BEFORE, ("Response", "last")]
    assert api.received() == []


def test_a_reply_of_a_classic_definition_skips_all_hooks(table: Table) -> None:
    api = api_with(table, reply=OWN)
    answer = send(api)
    assert (answer.status, answer.body) == (203, b"of the gateway")
    assert (api.dispatches(), api.received()) == ([], [])


def test_the_cache_holds_what_response_hooks_made(table: Table) -> None:
    api = api_with(table, cached="/utf8")
    first = send(api, "/utf8")
    assert first.body == "grüße, changed by the hook".encode()
    assert api.dispatches() == [*BEFORE, ("Post", "third"), ("Response", "last")]
    assert len(api.received()) == 1
    second = send(api, "/utf8")
    assert (second.body, api.received()) == (first.body, [])
    assert api.dispatches()[5:] == BEFORE
