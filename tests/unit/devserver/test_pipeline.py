"""A request's way through the development gateway, and what its trace says."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.support.dev_gateway import BODY, FixedUpstream, Served, serving
from tykpy.devserver.definitions.api import Api
from tykpy.devserver.endings import ErrorTemplates, Refused
from tykpy.devserver.errors import DefinitionError
from tykpy.devserver.gateway import DevFiles, DevGateway
from tykpy.devserver.hooks.local import LocalHooks
from tykpy.devserver.identity.keys import Keys
from tykpy.devserver.messages import GatewayRequest
from tykpy.devserver.trace import Note, Trace

EVERY_TYPE = """
from tyk.gateway import TykGateway as tyk

@Pre
def first(request, session, spec):
    print("at", request.object.url)
    request.add_header("X-First", "yes")
    request.object.body = "ignored"
    return request, session

@CustomKeyCheck
def check(request, session, metadata, spec):
    if request.get_header("Authorization") is None:
        request.object.return_overrides.response_code = 401
        request.object.return_overrides.response_error = "who are you?"
    else:
        metadata["token"] = request.get_header("Authorization")
        session.quota_max = 2
        session.quota_renewal_rate = 60
    return request, session, metadata

@PostKeyAuth
def known(request, session, metadata, spec):
    request.add_header("X-Key", metadata["token"])
    return request, session, metadata

@Post
async def last(request, session, spec):
    request.object.url = "/an/other?changed=1"
    return request, session

@Response
def seal(request, response, session, metadata, spec):
    response.raw_body = response.raw_body.upper()
    del response.headers["Server"]
    tyk.trigger_event("Sealed", "a payload")
    return response

@Event
def Sealed(event, spec):
    print("sealed", event.message.Meta)

@Event
def failed(event, spec):
    raise ValueError(event.message.Type)

@Pre
def raises(request, session, spec):
    password = "hunter2"
    return {}["missing"]
"""
HOOKS: dict[str, Any] = {
    "pre": ["first"],
    "auth_check": "check",
    "post_key_auth": ["known"],
    "post": ["last"],
    "response": ["seal"],
}
KEY = {"Authorization": "a-key"}


def run(test: Callable[[Served], Coroutine[Any, Any, None]], folder: Path, **options: Any) -> None:
    async def serve() -> None:
        async with serving(folder, EVERY_TYPE, **options) as served:
            await test(served)

    asyncio.run(serve())


def notes(trace: Trace) -> list[str]:
    return [step.text for step in trace.steps if isinstance(step, Note)]


def test_hooks_run_in_the_order_of_the_gateway(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        trace = await served.get("/a/path?q=1", headers=KEY)
        assert [(call.hook_type, call.name) for call in trace.hooks] == [
            ("Pre", "first"),
            ("CustomKeyCheck", "check"),
            ("PostKeyAuth", "known"),
            ("Post", "last"),
            ("Response", "seal"),
        ]
        (received,) = served.upstream.received
        assert received.url == "http://upstream.test/base/an/other?q=1"
        assert (received.headers["X-First"], received.headers["X-Key"]) == (["yes"], ["a-key"])
        assert trace.response is not None
        assert (trace.response.status, trace.response.body) == (200, BODY.upper())
        assert "Server" not in trace.response.headers

    run(test, tmp_path, **HOOKS)


def test_a_trace_has_changes_prints_and_what_is_ignored(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        trace = await served.get("/a/path", headers=KEY)
        first = trace.hook("first")
        assert [str(change) for change in first.changes] == [
            "+ request.set_headers['X-First']: 'yes'",
            "+ request.body: 'ignored'",
        ]
        assert [line.text for line in first.answer.printed] == ["at /a/path"]
        assert [one.rule for one in first.ignored] == ["request-body"]
        assert [one.rule for one in trace.hook("last").ignored] == ["url-query"]
        assert {"hook", "note"} == {step["kind"] for step in trace.describe()["steps"]}

    run(test, tmp_path, **HOOKS)


def test_an_override_answers_with_the_error_template(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        trace = await served.get()
        assert trace.response is not None
        assert (trace.response.status, trace.response.body) == (401, b'{\n    "error": "who are you?"\n}')
        xml = await served.get(headers={"Content-Type": "text/xml"})
        assert xml.response is not None
        assert xml.response.body.endswith(b"<error>who are you?</error>")
        assert served.upstream.received == []

    run(test, tmp_path, **HOOKS)


def test_error_templates_are_those_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text("{{.StatusCode}} {{ .Message }}")
    (tmp_path / "error_401.xml").write_text("<own>{{.Message}}</own>")
    templates = ErrorTemplates.read(tmp_path)
    bodies = [
        templates.response(Refused(401, "it's"), GatewayRequest(headers={"Content-Type": [kind]})).body
        for kind in ("application/json", "text/xml")
    ]
    assert bodies == [b"401 it\\'s", b"<own>it\\'s</own>"]
    (tmp_path / "error.xml").write_text("\n{{if .Message}}")
    with pytest.raises(DefinitionError, match=r"error.xml:2: tykpy dev knows"):
        ErrorTemplates.read(tmp_path)


def test_large_bodies_push_out_old_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tykpy.devserver.gateway.KEPT_BYTES", 10_000)

    async def test(served: Served) -> None:
        for _ in range(3):
            await served.get(method="POST", body=b"x" * 2_000)
        assert [trace.number for trace in served.gateway.traces] == [3]

    run(test, tmp_path, pre=["first"])


def test_a_quota_is_kept_and_refuses(tmp_path: Path) -> None:
    now = [1_000.0]

    async def test(served: Served) -> None:
        statuses = [
            trace.response.status for trace in [await served.get(headers=KEY) for _ in range(3)] if trace.response
        ]
        assert statuses == [200, 200, 403]
        now[0] += 61
        assert (await served.get(headers=KEY)).response.status == 200  # type: ignore[union-attr]

    run(test, tmp_path, keys=Keys(clock=lambda: now[0]), **HOOKS)


def test_an_error_has_source_and_masked_variables(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        trace = await served.get()
        assert trace.response is not None
        assert (trace.response.status, trace.error) == (500, "Middleware error")
        problem = trace.problem
        assert problem is not None
        assert problem.exception == "KeyError: 'missing'"
        (frame,) = problem.frames
        assert dict(frame.source)[frame.line].strip() == 'return {}["missing"]'
        assert dict(frame.variables)["password"] == "•••"

    run(test, tmp_path, pre=["raises"])


def test_triggered_events_reach_their_handlers(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        trace = await served.get()
        await served.gateway.pipeline.close()
        assert [(event.name, event.payload) for event in trace.hook("seal").answer.triggered] == [
            ("Sealed", "a payload")
        ]
        (handled,) = trace.events
        assert [line.text for line in handled.answer.printed] == ["sealed a payload"]

    run(test, tmp_path, response=["seal"])


def test_a_refusal_fires_auth_failure(tmp_path: Path) -> None:
    handler = {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "failed"}}
    definition = {
        "enable_coprocess_auth": True,
        "custom_middleware_bundle": "any.zip",
        "event_handlers": {"events": {"AuthFailure": [handler]}},
    }

    async def test(served: Served) -> None:
        trace = await served.get()
        await served.gateway.pipeline.close()
        (handled,) = trace.events
        assert (handled.event, handled.handler) == ("AuthFailure", "failed")
        assert handled.answer.problem is not None
        assert handled.answer.problem.exception == "ValueError: AuthFailure"

    run(test, tmp_path, api=definition, auth_check="check")


def test_a_status_that_go_cannot_write_drops_the_connection(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        served.upstream.response.status = 99
        trace = await served.get()
        assert trace.response is None
        assert "drops the connection" in notes(trace)[-1]

    run(test, tmp_path, pre=["first"])


def test_the_gateway_says_which_hooks_are_never_called(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        warnings = " ".join(served.gateway.loading.warnings)
        assert "check is never called: the API has no custom authentication (enable_coprocess_auth)" in warnings
        assert "PostKeyAuth hooks are never called, because the API is keyless: known" in warnings

    definition = {"use_keyless": True, "custom_middleware_bundle": "any.zip"}
    run(test, tmp_path, api=definition, auth_check="check", post_key_auth=["known"])


def test_hooks_that_the_manifest_leaves_out_are_told(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        assert served.gateway.loading.warnings == (
            "bundle: check is never called: manifest.json does not list it",
            "bundle: known is never called: manifest.json does not list it",
            "bundle: seal is never called: manifest.json does not list it",
        )

    run(test, tmp_path, pre=["*"], post=["last"])


def test_where_hooks_are_listed_is_told(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        (warning, *_) = served.gateway.loading.warnings
        assert warning.endswith("no hook is configured; list them in custom_middleware of the bundle's manifest.json")

    run(test, tmp_path)


FILE_WITH_ERRORS = [
    (
        "from tyk.decorators import Pre\n\n@Pre\ndef first(request, session, spec)\n    return request, session\n",
        "SyntaxError",
    ),
    ("import no_such_module\n", "ModuleNotFoundError"),
    (
        "from tyk.decorators import Pre\n\n@Pre\ndef first(request, session):\n    return request, session\n",
        "2 arguments",
    ),
]


@pytest.mark.parametrize(("source", "message"), FILE_WITH_ERRORS, ids=["syntax", "import", "arguments"])
@pytest.mark.parametrize("has_definition", [False, True], ids=["alone", "of a definition"])
def test_a_file_with_an_error_passes_no_request(
    tmp_path: Path, source: str, message: str, has_definition: bool
) -> None:
    """Without a manifest only its decorators say which hooks there are."""
    file = tmp_path / "hello.py"
    file.write_text(source)
    definition = tmp_path / "api.json"
    definition.write_text('{"api_id": "a", "use_keyless": true, "custom_middleware_bundle": "hello.zip"}')

    async def get() -> Trace:
        hooks = LocalHooks([file])
        gateway = DevGateway(DevFiles(file, (definition,) if has_definition else ()), hooks, FixedUpstream())
        try:
            await gateway.load()
            assert gateway.loading.warnings == ()
            return await gateway.handle(GatewayRequest(url="/"))
        finally:
            await gateway.close()

    trace = asyncio.run(get())
    assert trace.response is not None
    assert trace.response.status == 500
    assert message in trace.error


def test_a_file_tells_which_hooks_have_no_type(tmp_path: Path) -> None:
    file = tmp_path / "hello.py"
    file.write_text("from tyk.decorators import Hook\n\n@Hook\ndef first(request, session, spec):\n    pass\n")

    async def load() -> tuple[str, ...]:
        gateway = DevGateway(DevFiles(file), LocalHooks([file]), FixedUpstream())
        try:
            return (await gateway.load()).warnings
        finally:
            await gateway.close()

    assert asyncio.run(load()) == (
        "hello.py: no hook is configured; decorate a function of the file, e.g. with @Pre",
        "hello.py: first is never called: its decorator does not say when",
    )


@pytest.mark.parametrize("returned", ["None", "request", "1, 2, 3"])
def test_a_wrong_return_shows_the_hook(tmp_path: Path, returned: str) -> None:
    """Not the code of ours that looks at what came back."""
    source = f"\n@Pre\ndef wrong(request, session, spec):\n    return {returned}\n"

    async def get() -> Trace:
        async with serving(tmp_path, source, pre=["wrong"]) as served:
            return await served.get()

    problem = asyncio.run(get()).problem
    assert problem is not None
    (frame,) = problem.frames
    assert (problem.file, frame.file) == (frame.file, str(tmp_path / "bundle" / "middleware.py"))
    assert f"    return {returned}" in dict(frame.source).values()


def test_a_value_of_the_wrong_type_is_explained(tmp_path: Path) -> None:
    """Protobuf itself says only `bad argument type for built-in operation`."""
    source = "\n@Pre\ndef wrong(request, session, spec):\n    request.add_header('X-Count', 2)\n"

    async def get() -> Trace:
        async with serving(tmp_path, source, pre=["wrong"]) as served:
            return await served.get()

    problem = asyncio.run(get()).problem
    assert problem is not None
    assert "headers, parameters and metadata are str" in problem.message


def test_a_broken_definition_fails_every_request(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        (problem,) = served.gateway.loading.problems
        assert problem.message.endswith("api.json:4: proxy: Expected `object`, got `int`")
        assert dict(problem.frames[0].source)[4] == ' "proxy": 7'
        trace = await served.get()
        assert trace.response is not None
        assert (trace.response.status, trace.error) == (500, problem.message)

    run(test, tmp_path, api={"proxy": 7}, pre=["first"])


def test_without_an_api_the_answer_is_404(tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        served.gateway.pipeline.apis = (Api(listen_path="/here/"),)
        trace = await served.get("/elsewhere")
        assert trace.response is not None
        assert (trace.response.status, trace.error) == (404, "no API listens at /elsewhere")

    run(test, tmp_path, pre=["first"])


@pytest.mark.parametrize("url", ["/?a=%ff", "/?a=1&b=%c3%28"])
def test_parameters_that_are_not_utf8_are_refused(tmp_path: Path, url: str) -> None:
    async def test(served: Served) -> None:
        trace = await served.gateway.handle(GatewayRequest(url=url))
        assert (trace.hooks, trace.response.status if trace.response else None) == ([], 500)

    run(test, tmp_path, pre=["first"])
