"""One dispatch of a whole chain gives the same result as one dispatch per hook, in a model of the gateway.

`tykpy bundle build --chain` builds the bundle, whose manifest lists the hooks in another order than the source.
Requests are lazy: a hook may read the message at any time, or never.
"""

import copy
import logging
import operator
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.bundles import Served, md5, write_bundle
from tests.support.gateway.gateway_model import Gateway, HttpRequest, HttpResponse, Outcome
from tykpy.bundles.errors import WorkerError
from tykpy.commands.bundle.build import build

CHAIN = (2, 0, 3, 1)
"""The hooks of a chain, in the order of the manifest."""
RAW_BODY_ONLY = frozenset({0, 1})
DISABLED = 4
CHAIN_LENGTH = len(CHAIN)

HOOKS = """
import copy

from tyk.request import MiniRequestObject, TykRequest

PROGRAMS = {}
SEEN = []
KEPT = []

def run(name, request, session, spec, response=None):
    SEEN.append((name, [request.get_header(key) for key in ("X-A", "x-b", "accept", "Host")],
                 session.SerializeToString(deterministic=True), sorted(spec.items()),
                 None if response is None else (response_view(response), request.object.body)))
    for step, *values in PROGRAMS[name]:
        request = globals()[step](request, session, response, *values) or request
    return request

def request_view(raw):
    return (dict(raw.headers), dict(raw.params), raw.url, raw.method, raw.raw_body, raw.body,
            raw.return_overrides.response_code, dict(raw.set_headers), list(raw.delete_headers),
            dict(raw.add_params), list(raw.delete_params))

def response_view(response):
    many = sorted((header.key, tuple(header.values)) for header in response.multivalue_headers)
    return response.status_code, response.raw_body, response.body, dict(response.headers), many

def look(request, session, response): SEEN.append(request_view(request.object))
def keep(request, session, response): KEPT.append(request)
def look_at_kept(request, session, response): SEEN.extend(request_view(kept.object) for kept in KEPT)
def change_kept(request, session, response, key, value):
    for kept in KEPT:
        if kept is not request:
            kept.add_header(key, value)
def another(request, session, response): return copy.deepcopy(request)
def bare(request, session, response): return TykRequest(request.object)
def replace(request, session, response, url):
    request.object = MiniRequestObject(url=url, method="PATCH", set_headers={"X-B": "replaced"})
def set_header(request, session, response, key, value): request.add_header(key, value)
def delete_header(request, session, response, key): request.delete_header(key)
def set_param(request, session, response, key, value): request.add_param(key, value)
def delete_param(request, session, response, key): request.delete_param(key)
def url(request, session, response, value): request.object.url = value
def method(request, session, response, value): request.object.method = value
def body(request, session, response, value): request.object.raw_body = value
def override(request, session, response, code, text):
    request.object.return_overrides.response_code = code
    request.object.return_overrides.response_error = text
    request.object.return_overrides.headers["X-Why"] = text
def ignored(request, session, response):
    request.object.headers["X-Ignored"] = "1"
    request.object.params["ignored"] = "1"
    request.object.body = "ignored"
    request.object.scheme = "ignored"
    session.metadata["dropped"] = "1"
def fail(request, session, response): raise ValueError("continues")
def status(request, session, response, code): response.status_code = code
def response_body(request, session, response, value): response.raw_body = value
def response_header(request, session, response, key, value): response.headers[key] = value
def drop_response_header(request, session, response, key): response.headers.pop(key, None)
def more_values(request, session, response, key, values):
    header = response.multivalue_headers.add()
    header.key = key
    header.values.extend(values)
"""

REQUEST_HOOK = """
@{kind}{arguments}
{prefix}def {name}(request, session, spec):
    request = run("{name}", request, session, spec)
    spec["OrgID"] = "dropped"
    return request, session
"""

RESPONSE_HOOK = """
@Response(on_error="continue")
def {name}(request, response, session, metadata, spec):
    run("{name}", request, session, spec, response)
    return response
"""

BUNDLE = "foo.zip"
KINDS = {"pre": "Pre", "post": "Post", "response": "Response"}

KEYS = st.sampled_from(["X-A", "x-lower", "X-B", "Accept", "host", "X-Many"])
PARAMS = st.sampled_from(["a", "A", "b", "c d", "ü"])
TEXT = st.text(st.sampled_from("ab =&%;ü+/"), max_size=4)
BODIES = st.sampled_from([b"", b"text", b"\xff\x00"])
URLS = st.sampled_from(["/new", "/new?a=9&x=1", "/a%20b", "/", "", "relative"])

REQUEST_STEPS = st.one_of(
    st.tuples(st.just("set_header"), KEYS, TEXT),
    st.tuples(st.just("delete_header"), KEYS),
    st.tuples(st.just("set_param"), PARAMS, TEXT),
    st.tuples(st.just("delete_param"), PARAMS),
    st.tuples(st.just("url"), URLS),
    st.tuples(st.just("method"), st.sampled_from(["PUT", "GET"])),
    st.tuples(st.just("body"), BODIES),
    st.tuples(st.just("override"), st.sampled_from([-1, 0, 200, 403]), TEXT),
    st.tuples(st.just("ignored")),
    st.tuples(st.sampled_from(["look", "keep", "look_at_kept", "another", "bare"])),
    st.tuples(st.just("change_kept"), KEYS, TEXT),
    st.tuples(st.just("replace"), URLS),
    st.tuples(st.just("fail")),
)
RESPONSE_STEPS = st.one_of(
    st.tuples(st.just("status"), st.sampled_from([200, 404])),
    st.tuples(st.just("response_body"), BODIES),
    st.tuples(st.just("response_header"), st.sampled_from(["X-A", "X-New", "Set-Cookie"]), TEXT),
    st.tuples(st.just("drop_response_header"), st.sampled_from(["X-A", "Set-Cookie"])),
    st.tuples(
        st.just("more_values"), st.sampled_from(["X-Late", "Set-Cookie"]), st.lists(TEXT, min_size=1, max_size=2)
    ),
    st.tuples(st.just("override"), st.just(403), TEXT),
    st.tuples(st.just("set_header"), KEYS, TEXT),
    st.tuples(st.just("fail")),
)
REQUESTS = st.builds(
    HttpRequest,
    url=st.sampled_from(["/", "/path?a=1&a=2&b=3", "/path?b=1", "/p%2Fq?c+d=%C3%BC"]),
    headers=st.dictionaries(
        st.sampled_from(["X-A", "X-B", "X-Many"]), st.lists(TEXT, min_size=1, max_size=3), max_size=3
    ),
    body=BODIES,
)
RESPONSES = st.builds(
    HttpResponse,
    headers=st.dictionaries(st.sampled_from(["X-A", "Set-Cookie"]), st.lists(TEXT, min_size=1, max_size=3), max_size=2),
    body=BODIES,
)

SLOW_OR_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def programs(steps: Any, *first: Any) -> Any:
    """Generate a program of up to four steps for each hook; many begin with `first`."""
    program = st.builds(operator.add, st.sampled_from([[], [*first]]), st.lists(steps, max_size=4))
    return st.lists(program, min_size=CHAIN_LENGTH, max_size=CHAIN_LENGTH)


def listed(kind: str) -> list[dict[str, Any]]:
    """Return the manifest's list of a hook type, with a disabled hook in the middle."""
    hooks = [{"name": f"{kind}{index}", "raw_body_only": index in RAW_BODY_ONLY} for index in CHAIN]
    return [*hooks[:2], {"name": f"{kind}{DISABLED}", "disabled": True}, *hooks[2:]]


def singly(kind: str) -> list[tuple[str, bool]]:
    """Return the gateway's calls without a chain: name and `raw_body_only` of each hook."""
    return [(f"{kind}{index}", index in RAW_BODY_ONLY) for index in CHAIN]


WHOLE = [("*", True)]
"""The gateway's only call with a chain."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A loaded bundle with a chain of each hook type; the `Pre` chain has an async hook."""
    folder = tmp_path_factory.mktemp("bundles")
    source = HOOKS
    for index in (*sorted(CHAIN), DISABLED):
        prefix = "async " if index == 1 else ""
        arguments = '(on_error="continue")' if index % 2 else ""
        source += REQUEST_HOOK.format(kind="Pre", arguments=arguments, prefix=prefix, name=f"Pre{index}")
        source += REQUEST_HOOK.format(kind="Post", arguments=arguments, prefix="", name=f"Post{index}")
        source += RESPONSE_HOOK.format(name=f"Response{index}")
    written = tmp_path_factory.mktemp("source")
    write_bundle(written, {"middleware.py": source}, **{key: listed(kind) for key, kind in KINDS.items()})
    build(written, folder / BUNDLE, chain=True)
    one = Served(folder, tmp_path_factory.mktemp("unpacked"))
    for hook in one.store.loaded()[0].hooks.values():
        hook.unwatched_calls = 1 << 60  # the check for ignored changes would read the message
    yield one
    one.close()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Silence the worker's log: hundreds of hooks fail on purpose."""
    caplog.set_level(logging.CRITICAL, "tykpy.worker")


def load(served: Served, hook_type: str, chain: Any) -> Any:
    """Set the hooks' programs; return the list that the hooks fill with what they see."""
    module = served.store.loaded()[0].hooks[f"{hook_type}0"].function.__globals__
    module["PROGRAMS"].update({f"{hook_type}{index}": program for index, program in enumerate(chain)})
    return module["SEEN"]


def forget(served: Served) -> None:
    """Clear what the hooks have seen and stored."""
    module = served.store.loaded()[0].hooks["Pre0"].function.__globals__
    module["SEEN"].clear()
    module["KEPT"].clear()


def run_requests(
    served: Served,
    request: HttpRequest,
    hook_type: str,
    calls: list[tuple[str, bool]],
    rewritten: str | None = None,
) -> tuple[Any, Outcome | str | None]:
    """Call hooks in order; return the request, and the answer or failure that ended it, if any."""
    forget(served)
    gateway = Gateway(copy.deepcopy(request), md5(BUNDLE))
    gateway.session = {"rate": 5, "metadata": {"token": "t"}}
    gateway.rewritten = rewritten
    for name, raw_body_only in calls:
        try:
            outcome = gateway.call_request_hook(served.run, name, hook_type, raw_body_only=raw_body_only)
        except WorkerError as error:
            return gateway.request, error.message
        if outcome is not None:
            return gateway.request, outcome
    if gateway.rewritten is not None:
        gateway.request.url = gateway.rewritten
    return gateway.request, None


@pytest.mark.parametrize("hook_type", ["Pre", "Post"])
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW_OR_SHARED)
@given(request_in=REQUESTS, chain=programs(REQUEST_STEPS, ("look",)))
def test_a_request_chain_equals_single_calls(
    served: Served, hook_type: str, request_in: HttpRequest, chain: Any
) -> None:
    seen = load(served, hook_type, chain)
    single = run_requests(served, request_in, hook_type, singly(hook_type))
    seen_singly = list(seen)
    chained = run_requests(served, request_in, hook_type, WHOLE)
    assert list(map(_comparable, seen)) == list(map(_comparable, seen_singly))
    assert chained[1] == single[1]
    if single[1] is None:
        assert _ended(chained[0]) == _ended(single[0])


@settings(max_examples=50, deadline=None, suppress_health_check=SLOW_OR_SHARED)
@given(request_in=REQUESTS, chain=programs(REQUEST_STEPS, ("look",)))
def test_a_chain_after_a_url_rewrite_equals_single_calls(served: Served, request_in: HttpRequest, chain: Any) -> None:
    seen = load(served, "Post", chain)
    target = "http://upstream/rewritten?of=rewrite"
    single = run_requests(served, request_in, "Post", singly("Post"), target)
    seen_singly = list(seen)
    chained = run_requests(served, request_in, "Post", WHOLE, target)
    assert seen == seen_singly
    assert chained[1] == single[1]
    if single[1] is None:
        assert chained[0].url == single[0].url
        assert _ended(chained[0]) == _ended(single[0])


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW_OR_SHARED)
@given(request_in=REQUESTS, response_in=RESPONSES, chain=programs(RESPONSE_STEPS))
def test_a_response_chain_equals_single_calls(
    served: Served, request_in: HttpRequest, response_in: HttpResponse, chain: Any
) -> None:
    seen = load(served, "Response", chain)
    forget(served)
    single = Gateway(copy.deepcopy(request_in), md5(BUNDLE), copy.deepcopy(response_in))
    for name, raw_body_only in singly("Response"):
        single.call_response_hook(served.run, name, raw_body_only=raw_body_only)
    seen_singly = list(seen)
    forget(served)
    chained = Gateway(copy.deepcopy(request_in), md5(BUNDLE), copy.deepcopy(response_in))
    chained.call_response_hook(served.run, "*", raw_body_only=True)
    assert seen == seen_singly
    assert chained.response == single.response


def _comparable(view: tuple[Any, ...]) -> tuple[Any, ...]:
    """Remove the query string, whose spelling may differ: its parameters are compared instead."""
    if isinstance(view[0], str):  # what a hook sees without the message
        return view
    return (*view[:2], view[2].partition("?")[0], *view[3:])


def _ended(request: HttpRequest) -> tuple[Any, ...]:
    path = request.url.partition("?")[0]
    return path, request.query, request.method, request.headers, request.body
