"""Section 5: the Python API that plugin authors use."""

import base64
import json
from typing import Any

import pytest

from tests.support.broker import wait_until
from tests.support.gateway.table import ORG, Table

DECORATED = {
    "pre": "Pre",
    "auth_check": "CustomKeyCheck",
    "post_key_auth": "PostKeyAuth",
    "post": "Post",
}
KNOWN = {"use_standard_auth": True, "ignored": "/echo"}
"""An API that is not keyless, so its PostKeyAuth hooks run, but that needs no key."""


def decorated(decorator: str) -> str:
    """Return a hook with this decorator, which sets a header with the decorator's name."""
    return f"""
        from tyk.decorators import *

        @{decorator}
        def named_{decorator}(request, session, metadata, spec):
            metadata["token"] = "decorated"
            request.add_header("X-Decorator", "{decorator}")
            return request, session, metadata
        """


@pytest.mark.parametrize("decorator", ["Hook", "own"])
@pytest.mark.parametrize("kind", DECORATED)
def test_hook_fits_any_hook_type_and_each_type_has_a_decorator(table: Table, kind: str, decorator: str) -> None:
    name = DECORATED[kind] if decorator == "own" else "Hook"
    hooks: Any = f"named_{name}" if kind == "auth_check" else [f"named_{name}"]
    api = table.api(
        {"middleware.py": decorated(name)}, hooks={kind: hooks}, definition=None if kind == "auth_check" else KNOWN
    )
    assert api.send().upstream.headers["X-Decorator"] == [name]


@pytest.mark.parametrize(
    ("kind", "hook", "shape"),
    [("pre", "three_arguments", "three"), ("post", "four_arguments", "four"), ("post", "three_arguments", "three")],
)
def test_the_number_of_arguments_picks_the_request_hooks_shape(table: Table, kind: str, hook: str, shape: str) -> None:
    api = table.api("plugin_api", hooks={kind: [hook]})
    assert api.send().upstream.headers["X-Shape"] == [shape]


def test_five_arguments_are_a_response_hook(table: Table) -> None:
    assert table.api("plugin_api", response=["five_arguments"]).send().value("X-Shape") == "five"


def test_any_other_number_of_arguments_is_a_clear_error(table: Table) -> None:
    answer = table.api("plugin_api", pre=["six_arguments"]).send()
    assert (answer.status, answer.json) == (500, {"error": "Middleware error"})
    table.broker.wait_for_log("six_arguments")


def test_two_arguments_are_an_event_handler(table: Table) -> None:
    handler = {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "on_auth_failure"}}
    definition = {"event_handlers": {"events": {"AuthFailure": [handler]}}}
    api = table.api("plugin_api", pre=["refuse"], definition=definition)
    assert api.send(path="/echo?x=1").status == 403
    with table.redis() as client:
        key = f"coprocess-data:event-of-{api.id}"
        wait_until(lambda: client.get(key) is not None, lambda: "the event's handler ran")
        seen = json.loads(client.get(key))  # type: ignore[arg-type]
    assert seen["type"] == "AuthFailure"
    assert seen["handler"] == "on_auth_failure"
    assert (seen["path"], seen["api"], seen["same"]) == (f"{api.path}/echo", api.id, True)
    assert f"GET {api.path}/echo?x=1 HTTP/1.1".encode() in base64.b64decode(seen["request"])
    assert seen["time"].endswith(" UTC")


def test_returned_metadata_is_merged_into_session_metadata(table: Table) -> None:
    assert table.api("plugin_api", auth_check="merge_metadata").send().status == 200
    assert table.session("merged")["meta_data"] == {"token": "merged", "of": "another map"}


def test_the_wrapper_reads_and_changes_headers_and_params(table: Table) -> None:
    api = table.api("plugin_api", pre=["wrapper"])
    received = api.send(path="/echo?deleted=1&kept=2", headers=[("X-Present", "here")]).upstream
    assert json.loads(received.headers["X-Seen"][0]) == ["here", None]
    assert "X-Present" not in received.headers
    assert received.url == "/echo?added=1&kept=2"


def test_sessions_are_built_from_the_protobuf_classes(table: Table) -> None:
    assert table.api("plugin_api", auth_check="fill_session").send().status == 200
    stored = table.session("built")
    assert stored["basic_auth_data"] == {"password": "p", "hash_type": "bcrypt"}
    assert (stored["jwt_data"], stored["monitor"]) == ({"secret": "s"}, {"trigger_limits": [80.0, 60.0]})
    assert stored["org_id"] == ORG


def test_old_import_names_are_the_same_classes(table: Table) -> None:
    seen = table.api("plugin_api", pre=["old_names"]).send().json
    assert seen == {
        "same_gateway": True,
        "mini_request": True,
        "overrides": True,
        "session": True,
        "object": "coprocess.Object",
        "response": "coprocess.ResponseObject",
        "pre": 1,
    }


@pytest.mark.parametrize(("ttl", "expires"), [(0, -1), (60, 60)])
def test_store_data_uses_tyks_redis_keys_and_seconds(table: Table, ttl: int, expires: int) -> None:
    api = table.api("plugin_api", pre=["store"])
    api.send(headers=[("X-Key", f"k{ttl}"), ("X-Value", "a value"), ("X-Ttl", str(ttl))])
    with table.redis() as client:
        assert client.get(f"coprocess-data:k{ttl}") == b"a value"
        left = client.ttl(f"coprocess-data:k{ttl}")
    assert left == expires if ttl == 0 else 0 < left <= expires


def test_get_data_returns_bytes_which_are_empty_without_a_key(table: Table) -> None:
    with table.redis() as client:
        client.set("coprocess-data:there", "stored by the gateway")
    api = table.api("plugin_api", pre=["load"])
    there = api.send(headers=[("X-Key", "there")]).json
    assert there == {"type": "bytes", "value": "stored by the gateway"}
    assert api.send(headers=[("X-Key", "missing")]).json == {"type": "bytes", "value": ""}


def test_log_has_four_levels(table: Table) -> None:
    assert table.api("plugin_api", pre=["log"]).send().status == 200
    table.broker.wait_for_log("logged as an error")
    lines = [line for line in table.broker.log.splitlines() if "logged as" in line]
    expected = [("DEBUG", "debug"), ("INFO", "info"), ("WARNING", "warning"), ("ERROR", "error"), ("INFO", "anything")]
    for level, text in [*expected, ("ERROR", "an error")]:
        assert any(level in line and f"logged as {text}" in line for line in lines), (level, lines)


def test_trigger_event_is_not_lost(table: Table) -> None:
    assert table.api("plugin_api", pre=["trigger"]).send(headers=[("X-Key", "of value")]).status == 200
    table.broker.wait_for_log("SomethingHappened")


def test_async_hooks_work(table: Table) -> None:
    assert table.api("plugin_api", pre=["asynchronous"]).send().upstream.headers["X-Shape"] == ["async"]


def test_a_returned_new_object_counts(table: Table) -> None:
    assert table.api("plugin_api", pre=["new_object"]).send().upstream.headers["X-Shape"] == ["another object"]
