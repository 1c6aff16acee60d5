"""Section 7: behaviour of the embedded driver that existing bundles rely on, and events."""

import json
from textwrap import dedent
from typing import Any

import pytest

from tests.support.bundles import md5
from tests.support.gateway.gateway import Api, Background
from tests.support.gateway.table import Table
from tyk.proto.coprocess_object_pb2 import Event


def failing(table: Table, *handlers: str) -> Api:
    """Add an API whose Pre hook refuses, with these handlers of AuthFailure."""
    entries = [{"handler_name": "cp_dynamic_handler", "handler_meta": {"name": name}} for name in handlers]
    definition = {"event_handlers": {"events": {"AuthFailure": entries}}}
    return table.api("plugin_api", pre=["refuse"], definition=definition)


def test_the_arguments_pick_the_shape_and_not_the_hook_type(table: Table) -> None:
    code = """
        from tyk.decorators import *
        from tyk.decorators import Response

        @Response
        def four_for_a_response(request, session, metadata, spec):
            return request, session, metadata

        @Pre
        def five_for_a_request(request, response, session, metadata, spec):
            request.add_header("X-Status", str(response.status_code))
            return response
        """
    hooks = {"pre": ["five_for_a_request"], "response": ["four_for_a_response"]}
    assert table.api({"middleware.py": code}, hooks=hooks).send().upstream.headers["X-Status"] == ["0"]


@pytest.mark.parametrize("decorator", ["Pre", "Post", "PostKeyAuth", "CustomKeyCheck", "Hook"])
def test_every_decorator_works_and_not_only_hook(table: Table, decorator: str) -> None:
    code = f"from tyk.decorators import *\n\n@{decorator}\ndef all_work(request, session, spec):\n    "
    code += (
        'session.metadata["token"] = "decorated"\n    request.add_header("X-Ran", "1")\n    return request, session\n'
    )
    kinds = {
        "Pre": "pre",
        "Post": "post",
        "PostKeyAuth": "post_key_auth",
        "CustomKeyCheck": "auth_check",
        "Hook": "pre",
    }
    hooks: Any = "all_work" if decorator == "CustomKeyCheck" else ["all_work"]
    known = {"use_standard_auth": True, "ignored": "/echo"} if decorator == "PostKeyAuth" else None
    api = table.api({"middleware.py": code}, hooks={kinds[decorator]: hooks}, definition=known)
    assert api.send().upstream.headers["X-Ran"] == ["1"]


def test_an_unknown_hook_is_an_error_and_never_an_echo(table: Table) -> None:
    api = table.api("changes", pre=["no_such_hook"])
    assert (api.send().status, api.received()) == (500, [])
    guarded = table.api("changes", auth_check="no_such_check")
    assert (guarded.send().status, guarded.received()) == (403, [])


@pytest.mark.not_dev("it reads the API again when its bundle is gone, and does not serve it")
def test_an_unknown_bundle_is_an_error_and_never_an_echo(table: Table) -> None:
    api = table.api("changes", bundle="soon-unknown.zip", pre=["pass_through"])
    folder = table.broker.bundles / md5(api.definition["custom_middleware_bundle"])
    folder.rename(table.folder / f"away-{folder.name}")
    assert (api.send().status, api.received()) == (500, [])
    table.broker.wait_for_log(folder.name)


def test_an_exception_is_error_500_with_its_traceback_in_the_log(table: Table) -> None:
    assert table.api("changes", pre=["fail"]).send().status == 500
    table.broker.wait_for_log('raise ValueError("as it was told to")')
    table.broker.wait_for_log("ValueError: as it was told to")


def test_events_reach_python_found_by_api_and_name(table: Table) -> None:
    apis = [failing(table, "on_auth_failure") for _ in range(2)]
    for api in apis:
        assert api.send().status == 403
        assert api.events(1) == [("on_auth_failure", "")]
    with table.redis() as client:
        for api in apis:
            seen = json.loads(client.get(f"coprocess-data:event-of-{api.id}"))  # type: ignore[arg-type]
            assert (seen["api"], seen["handler"]) == (api.id, "on_auth_failure")


def test_an_unknown_event_handler_is_logged_and_never_fatal(table: Table) -> None:
    api = failing(table, "nobody_knows_it", "on_auth_failure")
    assert (api.send().status, api.send().status) == (403, 403)
    assert [error for name, error in api.events(4) if name == "on_auth_failure"] == ["", ""]
    table.broker.wait_for_log("nobody_knows_it")


def test_the_key_of_a_refused_request_is_in_its_event(table: Table) -> None:
    code = """
        from tyk.decorators import *
        from gateway import TykGateway

        @CustomKeyCheck
        def refuse_with_token(request, session, metadata, spec):
            metadata["token"] = "the-token"
            request.object.return_overrides.response_code = 401
            return request, session, metadata

        @Event
        def keep_key(event, spec):
            TykGateway.store_data("refused-key", event.message.Meta.Key, 60)
        """
    handler = {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "keep_key"}}
    definition = {"event_handlers": {"events": {"AuthFailure": [handler]}}}
    api = table.api({"middleware.py": code}, auth_check="refuse_with_token", definition=definition)
    assert (api.send().status, api.events(1)) == (401, [("keep_key", "")])
    with table.redis() as client:
        assert client.get("coprocess-data:refused-key") == b"the-token"


def test_without_a_token_the_key_in_the_event_is_the_header(table: Table) -> None:
    code = """
        from tyk.decorators import *
        from gateway import TykGateway

        @CustomKeyCheck
        def leave_no_token(request, session, metadata, spec):
            return request, session, metadata

        @Event
        def keep_header(event, spec):
            TykGateway.store_data("refused-header", event.message.Meta.Key, 60)
        """
    handler = {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "keep_header"}}
    definition = {"event_handlers": {"events": {"AuthFailure": [handler]}}}
    api = table.api({"middleware.py": code}, auth_check="leave_no_token", definition=definition)
    assert (api.send(headers=[("Authorization", "a-wrong-key")]).status, api.events(1)) == (403, [("keep_header", "")])
    with table.redis() as client:
        assert client.get("coprocess-data:refused-header") == b"a-wrong-key"


def test_an_event_goes_to_the_handler_of_its_apis_bundle(table: Table) -> None:
    code = """
        import os
        from tyk.decorators import *
        from gateway import TykGateway

        @Pre
        def refuse_here(request, session, spec):
            request.object.return_overrides.response_code = 403
            return request, session

        @Event
        def handled_here(event, spec):
            TykGateway.store_data("handled-" + event.spec.APIID, NAME, 60)
        """
    handler = {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "handled_here"}}
    definition = {"event_handlers": {"events": {"AuthFailure": [handler]}}}
    apis = []
    for name in ("one", "two", "three"):
        files = {"middleware.py": f'NAME = "{name}"\n' + dedent(code)}
        apis.append((table.api(files, pre=["refuse_here"], definition=definition), name))
    for api, name in apis:
        assert api.send().status == 403
        assert api.events(1) == [("handled_here", "")]
        payload = {"message": {"Type": "AuthFailure"}, "handler_name": "handled_here", "spec": {"APIID": api.id}}
        with table.redis() as client:
            for _ in range(8):
                client.delete(f"coprocess-data:handled-{api.id}")
                callers = [Background(api, []) for _ in range(4)]
                table.broker.send_event(Event(payload=json.dumps(payload)))
                assert [caller.answer().status for caller in callers] == [403] * 4
                assert client.get(f"coprocess-data:handled-{api.id}") == name.encode()
