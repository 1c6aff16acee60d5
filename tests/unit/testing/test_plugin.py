"""The pytest plugin, in runs of pytest of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MIDDLEWARE = """
from tyk.decorators import CustomKeyCheck, Event, Hook, Post, Pre, Response
from gateway import TykGateway as tyk
import tyk as tykpy_api


@Pre
def tag(request, session, spec):
    request.add_header("x-tag", request.get_header("X-From") or "nobody")
    request.delete_header("Cookie")
    request.add_param("page", "2")
    return request, session


@CustomKeyCheck
def check(request, session, metadata, spec):
    if request.get_header("Authorization") != "secret":
        request.object.return_overrides.response_code = 401
        request.object.return_overrides.response_error = "wrong key"
        return request, session, metadata
    session.rate = 5
    metadata["token"] = "secret"
    return request, session, metadata


@Post
async def wait(request, session, spec):
    import asyncio
    await asyncio.sleep(0)
    request.object.raw_body = request.object.raw_body.upper()
    request.object.headers["X-Ignored"] = "1"
    request.add_header("X-Trace", tykpy_api.current().metadata["traceparent"])
    return request, session


@Response
def sign(request, response, session, metadata, spec):
    response.headers["X-Length"] = str(len(response.raw_body))
    response.status_code = 201
    return response


@Hook
def count(request, session, spec):
    before = int(tyk.get_data("n") or 0)
    tyk.store_data("n", before + 1, 60)
    tyk.trigger_event("Counted", {"n": before + 1})
    request.add_header("X-Count", str(before + 1))
    return request, session


@Pre
def forget(request, session, spec):
    request.add_header("A", "b")


@Pre
def fail(request, session, spec):
    raise LookupError("not here")


SEEN = []


@Event
def seen(event, spec):
    SEEN.append((event.message.Type, spec.APIID))


def helper(request, session, spec):
    return request, session
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "middleware.py").write_text(MIDDLEWARE)
    return tmp_path


def run(folder: Path, tests: str, *, passed: bool = True) -> str:
    (folder / "test_hooks.py").write_text("import pytest\nfrom middleware import *\n" + tests)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", "test_hooks.py"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode == 0) is passed, ran.stdout + ran.stderr
    return ran.stdout


def test_results_show_what_goes_on(folder: Path) -> None:
    run(folder, """
def test_request(tyk_call):
    result = tyk_call(tag, url="/a?page=1&q=x", headers={"X-From": "me", "cookie": "c"})
    assert result.headers["x-tag"] == result.headers["X-Tag"] == result.headers.get("X-TAG") == "me"
    assert "Cookie" not in result.headers and "X-FROM" in result.headers
    assert result.params == {"page": "2", "q": "x"}
    assert (result.method, result.url, result.overrides) == ("GET", "/a?page=2&q=x", None)

def test_auth(tyk_call):
    refused = tyk_call(check, headers={"Authorization": "guess"})
    assert (refused.overrides.response_code, refused.overrides.response_error) == (401, "wrong key")
    allowed = tyk_call(check, headers={"Authorization": "secret"}, session={"rate": 1.0, "per": 2.0})
    assert allowed.overrides is None
    assert (allowed.session.rate, allowed.session.per, allowed.metadata) == (5, 2, {"token": "secret"})

def test_async(tyk_call):
    result = tyk_call(wait, method="POST", body="abc", grpc_metadata={"traceparent": "00-1"})
    assert (result.body, result.headers["X-Trace"]) == (b"ABC", "00-1")
    assert [found.rule for found in result.ignored] == ["request-headers"]
    assert tyk_call(wait, json={"a": 1}, grpc_metadata={"traceparent": ""}).body == b'{"A": 1}'

def test_async_within_a_loop(tyk_call):
    async def main():
        return tyk_call(wait, body="abc", grpc_metadata={"traceparent": ""}).body
    import asyncio
    assert asyncio.run(main()) == b"ABC"

def test_response(tyk_call):
    result = tyk_call(sign, response_body="four", response_headers={"Server": "x"})
    assert result.response.status_code == 201
    assert result.response.headers == {"X-Length": "4", "Server": "x"}

def test_event(tyk_call):
    tyk_call.event(seen, {"Type": "AuthFailure"}, spec={"APIID": "7"})
    assert SEEN == [("AuthFailure", "7")]
""")  # fmt: skip


def test_every_test_has_its_own_store_and_events(folder: Path) -> None:
    run(folder, """
@pytest.mark.parametrize("turn", range(2))
def test_count(turn, tyk_call, tyk_store, tyk_events, tyk_clock):
    assert tyk_call(count).headers["X-Count"] == "1"
    assert tyk_store.fetch("n") == b"1"
    assert [(event.name, event.payload) for event in tyk_events] == [("Counted", '{"n": 1}')]
    assert tyk_call(count).headers["X-Count"] == "2"
    tyk_clock.advance(61)
    assert tyk_call(count).headers["X-Count"] == "1"
""")  # fmt: skip


COUNTING = """
import tyk
from tyk import metrics
from tyk.decorators import Pre

CALLS = metrics.counter("calls", "Calls.", ["path"])
SLASHES = CALLS.labels("/")
SIZES = metrics.histogram("sizes", buckets=[1, 10])
LOOKUPS = []


@tyk.cache(ttl=60)
def look_up(path):
    LOOKUPS.append(path)
    return path.upper()


@Pre
def count(request, session, spec):
    (SLASHES if request.object.url == "/" else CALLS.labels(request.object.url)).inc()
    SIZES.observe(len(request.object.raw_body))
    request.add_header("X-Path", look_up(request.object.url))
    return request, session
"""


def test_every_test_counts_and_caches_for_itself(folder: Path) -> None:
    (folder / "counting.py").write_text(COUNTING)
    run(folder, """
from counting import LOOKUPS, count, look_up
from tyk import metrics

@pytest.mark.parametrize("turn", range(3))
def test_metrics(turn, tyk_call, tyk_metrics):
    assert tyk_metrics("calls_total", path="/") == tyk_metrics("calls_total", path="/a") == 0
    assert [sample.name for sample in metrics.collect() if sample.labels.keys() == {"path"}] == []
    for url in ("/", "/a", "/", "/b"):
        tyk_call(count, url=url, body="abc")
    assert tyk_metrics("calls_total", path="/") == 2
    assert tyk_metrics("calls_total", path="/a") == 1
    assert tyk_metrics("sizes_sum") == 12
    assert (tyk_metrics("sizes_bucket", le="1.0"), tyk_metrics("sizes_bucket", le="10.0")) == (0, 4)

@pytest.mark.parametrize("turn", range(2))
def test_cache(turn, tyk_call):
    LOOKUPS.clear()
    assert look_up.cache_info()[:2] == (0, 0)
    tyk_call(count)
    tyk_call(count)
    assert LOOKUPS == ["/"]
    assert look_up.cache_info()[:2] == (1, 1)

def test_mistakes(tyk_metrics):
    with pytest.raises(LookupError, match="no metric has the sample 'calls'; there are: calls_total, sizes_bucket"):
        tyk_metrics("calls", path="/")
    with pytest.raises(LookupError, match="calls_total has the labels .'path',., not .'url',."):
        tyk_metrics("calls_total", url="/")
""")  # fmt: skip


def test_errors_are_the_hooks_own(folder: Path) -> None:
    run(folder, """
from tykpy.bundles.errors import WorkerError

def test_errors(tyk_call):
    with pytest.raises(LookupError, match="not here"):
        tyk_call(fail)
    with pytest.raises(WorkerError, match="hook forget .* returned nothing .*return request, session.*middleware.py"):
        tyk_call(forget)
    with pytest.raises(TypeError, match="helper is not a hook"):
        tyk_call(helper)
    with pytest.raises(TypeError, match="use tyk_call.event"):
        tyk_call(seen)
    with pytest.raises(TypeError, match="is not an event handler"):
        tyk_call.event(tag)
""")  # fmt: skip


@pytest.mark.parametrize("hook", ["fail", "forget", "later"])
def test_a_failing_hook_shows_the_test_and_its_own_code(folder: Path, hook: str) -> None:
    """And none of ours: `fail` raises, `forget` returns nothing, `later` is async and raises with a cause."""
    (folder / "middleware.py").write_text(
        (folder / "middleware.py").read_text()
        + """
@Pre
async def later(request, session, spec):
    try:
        {}["first"]
    except KeyError as error:
        raise LookupError("second") from error
"""
    )
    shown = run(folder, f"from middleware import *\n\ndef test_wrong(tyk_call):\n    tyk_call({hook})\n", passed=False)
    failure = shown.partition("= FAILURES =")[2].partition("Captured log")[0]
    assert f">       tyk_call({hook})" in failure or f">   tyk_call({hook})" in failure, failure
    for ours in ("calling.py", "invocation.py", "shapes.py", "asyncio"):
        assert ours not in failure
    if hook == "later":
        assert "KeyError: 'first'" in failure
        assert 'raise LookupError("second") from error' in failure


def test_a_missing_header_names_those_there_are(folder: Path) -> None:
    shown = run(folder, "def test_wrong(tyk_call):\n    tyk_call(tag).headers['X-Tug']\n", passed=False)
    assert "no header X-Tug; there are: Host, X-Tag" in shown
    assert "result.py" not in shown


def test_a_failure_shows_what_hooks_changed(folder: Path) -> None:
    shown = run(folder, """
def test_wrong(tyk_call):
    tyk_call(wait, grpc_metadata={"traceparent": "t"})
    assert tyk_call(tag).headers["X-Tag"] == "somebody"
""", passed=False)  # fmt: skip
    assert "tag (Pre) changed" in shown
    assert "+ request.set_headers['x-tag']: 'nobody'" in shown
    assert "! the gateway ignores changes in request.object.headers; write request.add_header" in shown
    shown = run(folder, "def test_other():\n    assert 0\n", passed=False)
    assert "hook call" not in shown


MANIFEST = {
    "file_list": ["middleware.py"],
    "custom_middleware": {
        "driver": "grpc",
        "auth_check": {"name": "check"},
        "post": [{"name": "count"}],
        "response": [{"name": "sign"}],
    },
}
TOKEN = '{"Authorization": "secret"}'


@pytest.fixture
def bundle(folder: Path) -> Path:
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


def test_a_gateway_serves_the_bundle_of_the_test(bundle: Path) -> None:
    run(bundle, f"""
def test_request(tyk_gateway, tyk_store, tyk_events, tyk_clock):
    assert tyk_gateway.get("/orders").status_code == 401
    reply = tyk_gateway.post("/orders?a=1", headers={TOKEN}, json={{"b": 2}})
    assert (reply.status_code, reply.headers["x-length"]) == (201, str(len(reply.content)))
    assert reply.json()["headers"]["X-Count"] == "1"
    assert [hook.name for hook in reply.trace.hooks] == ["check", "count", "sign"]
    assert tyk_store.fetch("n") == b"1"
    assert [event.name for event in tyk_events] == ["Counted"]
    tyk_clock.advance(61)
    assert tyk_gateway.get("/", headers={TOKEN}).json()["headers"]["X-Count"] == "1"

@pytest.mark.tyk_gateway(upstream=lambda request: (503, {{"Server": "x"}}, request.body), keys={{"k": {{"rate": 1}}}})
def test_upstream(tyk_gateway):
    reply = tyk_gateway.put("/a", headers={TOKEN}, data="four")
    assert (reply.status_code, reply.headers["Server"]) == (201, "x")
    assert reply.trace.received.status == 503
""")  # fmt: skip


def test_a_gateway_may_have_a_real_pool(bundle: Path) -> None:
    run(bundle, f"""
@pytest.mark.tyk_gateway(bundle=".", workers=1)
def test_pool(tyk_gateway):
    assert tyk_gateway.get("/", headers={TOKEN}).json()["headers"]["X-Count"] == "1"
    assert tyk_gateway.delete("/").status_code == 401
""")  # fmt: skip


def test_a_gateway_without_a_bundle_says_what_to_do(folder: Path) -> None:
    shown = run(folder, "def test_request(tyk_gateway):\n    pass\n", passed=False)
    assert "no manifest.json in" in shown
    (folder / "manifest.json").write_text("{")
    assert "manifest.json" in run(folder, "def test_request(tyk_gateway):\n    pass\n", passed=False)


def test_nothing_is_imported_without_a_fixture(folder: Path) -> None:
    (folder / "test_plain.py").write_text(
        "import sys\n\ndef test_plain():\n"
        "    loaded = {name for name in sys.modules if name.partition('.')[0] in ('tyk', 'tykpy', 'google')}\n"
        "    assert loaded <= {'tykpy', 'tykpy.testing', 'tykpy.testing.plugin'}, loaded\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_plain.py"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
