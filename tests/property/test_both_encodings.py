"""A hook sees and returns the same object, whether it came as a MessagePack map or as protobuf."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.property.test_maps import OBJECTS, messages
from tests.support.bundles import Served, md5, write_bundle
from tests.support.maps import from_map
from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_session_state_pb2 import SessionState
from tykpy.bundles.errors import WorkerError
from tykpy.ipc.frame import Kind

HOOKS = """
import copy

from tyk.request import MiniRequestObject, TykCoProcessRequest

PROGRAM = []
SEEN = []
STEPS = {}

def step(function):
    STEPS[function.__name__] = function

def run(request, session, spec, response=None):
    given = request
    for name, *values in PROGRAM:
        try:
            request = STEPS[name](request, session, spec, response, *values) or request
        except Exception as error:
            SEEN.append((name, type(error).__name__, str(error)))
            if name == "fail":
                raise
    return request

@step
def add_header(request, session, spec, response, key, value): request.add_header(key, value)
@step
def delete_header(request, session, spec, response, key): request.delete_header(key)
@step
def add_param(request, session, spec, response, key, value): request.add_param(key, value)
@step
def delete_param(request, session, spec, response, key): request.delete_param(key)
@step
def get_header(request, session, spec, response, key): SEEN.append(request.get_header(key))
@step
def look(request, session, spec, response):
    SEEN.append((request.object.SerializeToString(deterministic=True), repr(request)))
@step
def look_at_session(request, session, spec, response):
    SEEN.append((session.SerializeToString(deterministic=True), sorted(spec.items())))
@step
def merge(request, session, spec, response, fields): request.object.MergeFrom(type(request.object)(**fields))
@step
def clear(request, session, spec, response, name): request.object.ClearField(name)
@step
def replace(request, session, spec, response, fields): request.object = type(request.object)(**fields)
@step
def other(request, session, spec, response): return TykCoProcessRequest(copy.deepcopy(request.object))
@step
def fresh(request, session, spec, response, fields): return TykCoProcessRequest(MiniRequestObject(**fields))
@step
def shallow(request, session, spec, response): return copy.copy(request)
@step
def deep(request, session, spec, response): return copy.deepcopy(request)
@step
def keep(request, session, spec, response, value):
    request.mine = value
    SEEN.append((isinstance(request, TykCoProcessRequest), request.mine, hasattr(request, "nothing")))
@step
def bare(request, session, spec, response): return request.object
@step
def change_session(request, session, spec, response, fields): session.MergeFrom(type(session)(**fields))
@step
def change_spec(request, session, spec, response, key, value): spec[key] = value
@step
def change_response(request, session, spec, response, code):
    if response is not None:
        response.status_code = code
@step
def fail(request, session, spec, response): raise LookupError("on purpose")

@Hook
def Three(request, session, spec): return run(request, session, spec), session
@Hook
def Four(request, session, metadata, spec): return run(request, session, spec), session, metadata
@Hook
def Five(request, response, session, metadata, spec):
    run(request, session, spec, response)
    return response
@Hook(on_error="continue")
def Continues(request, session, spec): return run(request, session, spec), session
@Hook
async def Async(request, session, spec): return run(request, session, spec), session
"""

KEYS = st.sampled_from(["X-A", "x-a", "ü", "", "Content-Type"])
TEXTS = st.sampled_from(["", "b", "ü"])
WRONG = st.sampled_from([1, None, "\ud800", b"raw", b"\xff", True])
FIELDS = messages(MiniRequestObject.DESCRIPTOR)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["add_header", "add_param"]), KEYS, TEXTS),
    st.tuples(st.sampled_from(["add_header", "add_param"]), KEYS | WRONG, TEXTS | WRONG),
    st.tuples(st.sampled_from(["delete_header", "delete_param", "get_header"]), KEYS | WRONG),
    st.tuples(st.sampled_from(["look", "look_at_session", "other", "shallow", "deep", "bare", "fail"])),
    st.tuples(st.sampled_from(["merge", "replace", "fresh"]), FIELDS),
    st.tuples(st.just("clear"), st.sampled_from(["set_headers", "headers", "return_overrides", "url"])),
    st.tuples(st.just("keep"), TEXTS),
    st.tuples(st.just("change_session"), messages(SessionState.DESCRIPTOR)),
    st.tuples(st.just("change_spec"), KEYS, TEXTS),
    st.tuples(st.just("change_response"), st.integers(0, 599)),
)
PROGRAMS = st.lists(STEPS, max_size=2) | st.lists(STEPS, max_size=6)
REQUESTS = st.builds(lambda request: {"request": request}, FIELDS)
NAMES = st.sampled_from(["Three", "Four", "Five", "Continues", "Async", "*"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "foo", {"middleware.py": HOOKS})
    one = Served(folder, tmp_path_factory.mktemp("unpacked"))
    for hook in one.store.loaded()[0].hooks.values():
        hook.unwatched_calls = 1 << 60  # the check for ignored changes would read the message
    yield one
    one.close()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Silence the worker's log: hundreds of hooks fail on purpose."""
    caplog.set_level(logging.CRITICAL, "tykpy.worker")


@settings(max_examples=500, deadline=None, suppress_health_check=[*HealthCheck])
@given(fields=OBJECTS | REQUESTS, name=NAMES, program=PROGRAMS)
@example(fields={"request": {"url": "/a"}}, name="Three", program=[("fresh", {"url": "/b"})])
@example(fields={"request": {}}, name="Three", program=[("look",)])
def test_both_encodings_give_the_same_result(served: Served, fields: Any, name: str, program: list[Any]) -> None:
    one = from_map(Object, fields)
    one.hook_name = name
    one.spec["bundle_hash"] = md5("foo")
    assert _dispatched(served, Kind.OBJECT_MAP, one, program) == _dispatched(served, Kind.OBJECT, one, program)


def _dispatched(served: Served, kind: Kind, one: Object, program: list[Any]) -> Any:
    """Dispatch once; return the answer or error, and what the hook saw."""
    module = served.store.loaded()[0].hooks["Three"].function.__globals__
    module["PROGRAM"][:] = program
    module["SEEN"].clear()
    served.kind = kind
    try:
        came: Any = served.run(one).SerializeToString(deterministic=True)
    except WorkerError as error:
        came = error.status, error.message
    return came, list(module["SEEN"])
