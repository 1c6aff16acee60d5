"""Section 8: whose session counts, and how a client is known without calling the auth hook."""

from typing import Any

import pytest

from tests.support.gateway.gateway import Api
from tests.support.gateway.table import Table

FORM = [("Content-Type", "application/x-www-form-urlencoded")]
XML = [("Content-Type", "application/xml")]
KNOWN_CLIENT = """
    import time
    from tyk.decorators import *

    @CustomKeyCheck
    def known_client(request, session, metadata, spec):
        session.id_extractor_deadline = int(time.time()) + 600
        metadata["token"] = "ignored where an id is extracted"
        return request, session, metadata
    """
BY_REGEX = {"extract_with": "regex", "extractor_config": {"regex_expression": "client-[0-9a-z-]+"}}
BY_XPATH = {"extract_with": "xpath", "extractor_config": {"xpath_expression": "/login/client"}}
BY_VALUE = {"extract_with": "value", "extractor_config": {"param_name": "client"}}


@pytest.mark.parametrize(
    ("provider", "alias"), [("custom_auth", "somebody"), ("auth_token", "of the key"), ("", "somebody")]
)
def test_the_base_identity_says_whose_session_counts(table: Table, provider: str, alias: str) -> None:
    both = {"enable_coprocess_auth": True, "use_standard_auth": True}
    base = {"base_identity_provided_by": provider} if provider else {}
    api = table.api("reports", auth_check="let_in", post_key_auth=["report_post_key_auth"], definition={**both, **base})
    key = f"a-key-{provider}"
    rights = {api.id: {"api_id": api.id, "api_name": api.id, "versions": ["Default"]}}
    table.store_session(key, {"alias": "of the key", "org_id": api.definition["org_id"], "access_rights": rights})
    assert api.send(headers=[("Authorization", key)]).json["session"]["alias"] == alias
    assert api.dispatches() == [("CustomKeyCheck", "let_in"), ("PostKeyAuth", "report_post_key_auth")]


def with_extractor(table: Table, source: str, how: dict[str, Any]) -> Api:
    return table.api(
        {"middleware.py": KNOWN_CLIENT}, auth_check="known_client", id_extractor={"extract_from": source, **how}
    )


@pytest.mark.parametrize(
    ("source", "how", "headers", "body"),
    [
        ("form", BY_VALUE, FORM, "client={}&other=%d"),
        ("body", BY_REGEX, [], '{{"client": "{}", "other": %d}}'),
        ("body", BY_XPATH, XML, "<login><client>{}</client><other>%d</other></login>"),
    ],
    ids=["value of a form", "regex of a body", "XPath of a body"],
)
def test_an_id_extractor_reads_forms_and_bodies(
    table: Table, source: str, how: dict[str, Any], headers: list[tuple[str, str]], body: str
) -> None:
    api = with_extractor(table, source, how)
    for count, client in ((1, "a"), (1, "a"), (2, "b"), (2, "a")):
        text = (body.format(f"client-{api.id}-{client}") % count).encode()
        received = api.send("POST", headers=headers, body=text).upstream
        assert (received.body, len(api.dispatches())) == (text, count)


def test_the_value_of_a_body_makes_all_clients_one(table: Table) -> None:
    api = with_extractor(table, "body", {"extract_with": "value", "extractor_config": {}})
    for client in (b"one", b"another"):
        assert api.send("POST", body=client).status == 200
    assert len(api.dispatches()) == 1


def test_an_id_extractor_without_a_match_is_error_400(table: Table) -> None:
    for how in (BY_REGEX, BY_XPATH):
        api = with_extractor(table, "body", how)
        assert (api.send("POST", body=b"<nobody/>").status, api.dispatches()) == (400, [])
