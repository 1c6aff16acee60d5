"""The hooks that a new bundle can begin with: the code of each, what it imports, and its test.

In the texts `@KEY@` stands for a random key and `@BUNDLE@` for the bundle's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class HookTemplate:
    """One hook."""

    name: str
    manifest_key: str
    """Where the manifest lists it; empty: not at all, as event handlers, which the API definition lists."""
    code: str
    test: str
    imports: frozenset[str]
    test_imports: frozenset[str] = frozenset()
    """Besides the hook itself, and HookCaller."""
    constants: str = ""


_MAPPING: Final = "from collections.abc import Mapping"
_MAPPINGS: Final = "from collections.abc import Mapping, MutableMapping"
_REQUEST: Final = frozenset({"from tyk.request import TykRequest", "from tyk.session import TykSession"})

PRE: Final = HookTemplate(
    "add_request_id",
    "pre",
    '''
@Pre
def add_request_id(request: TykRequest, session: TykSession, spec: Mapping[str, str]) -> tuple[TykRequest, TykSession]:
    """Give every request an id, unless the client brought one."""
    if request.get_header("X-Request-Id") is None:
        request.add_header("X-Request-Id", uuid4().hex)
    return request, session
''',
    """
def test_a_request_gets_an_id(tyk_call: HookCaller) -> None:
    assert len(tyk_call(add_request_id).headers["X-Request-Id"]) == 32


def test_the_id_of_a_client_is_kept(tyk_call: HookCaller) -> None:
    assert tyk_call(add_request_id, headers={"X-Request-Id": "mine"}).headers["X-Request-Id"] == "mine"
""",
    _REQUEST | {_MAPPING, "from tyk import uuid4", "from tyk.decorators import Pre"},
)

NAME_OPERATION: Final = HookTemplate(
    "name_operation",
    "pre",
    '''
@Pre
def name_operation(request: TykRequest, session: TykSession, spec: Mapping[str, str]) -> tuple[TykRequest, TykSession]:
    """Tell the upstream which operation of the API a request is for."""
    operation = operation_of(request.object.method, request.object.url)
    if operation is not None:
        request.add_header("X-Operation", operation)
    return request, session
''',
    """
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_found(tyk_call: HookCaller, name: str) -> None:
    method, path = OPERATIONS[name]
    url = LISTEN_PATH.rstrip("/") + re.sub(r"{[^{}/]+}", "some-value", path)
    assert tyk_call(name_operation, method=method, url=f"{url}?page=1").headers["X-Operation"] == name


def test_another_request_is_not_named(tyk_call: HookCaller) -> None:
    assert "X-Operation" not in tyk_call(name_operation, method="CONNECT").headers
""",
    _REQUEST | {_MAPPING, "from operations import operation_of", "from tyk.decorators import Pre"},
    frozenset({"import re", "import pytest", "from operations import LISTEN_PATH, OPERATIONS"}),
)

AUTH: Final = HookTemplate(
    "check_key",
    "auth_check",
    '''
@CustomKeyCheck
def check_key(
    request: TykRequest, session: TykSession, metadata: MutableMapping[str, str], spec: Mapping[str, str]
) -> tuple[TykRequest, TykSession, Mapping[str, str]]:
    """Accept known keys, with 100 requests in a minute for each."""
    key = request.get_header("Authorization")
    if key is None or key not in KEYS:
        request.object.return_overrides.response_code = 401
        request.object.return_overrides.response_error = "Not authorized"
        return request, session, metadata
    session.rate, session.per = 100, 60
    metadata["token"] = key
    metadata["user"] = KEYS[key]
    return request, session, metadata
''',
    """
def test_a_known_key_has_a_session(tyk_call: HookCaller) -> None:
    key, user = next(iter(KEYS.items()))
    result = tyk_call(check_key, headers={"Authorization": key})
    assert (result.overrides, result.session.rate) == (None, 100)
    assert result.metadata == {"token": key, "user": user}


def test_an_unknown_key_is_refused(tyk_call: HookCaller) -> None:
    overrides = tyk_call(check_key, headers={"Authorization": "guess"}).overrides
    assert overrides is not None
    assert overrides.response_code == 401
""",
    _REQUEST | {_MAPPINGS, "from tyk.decorators import CustomKeyCheck"},
    frozenset({"from middleware import KEYS"}),
    '''
KEYS = {"@KEY@": "demo"}
"""Who may call the API, by key. Keep keys in a database or a secret store instead."""
''',
)

POST_KEY_AUTH: Final = HookTemplate(
    "name_user",
    "post_key_auth",
    '''
@PostKeyAuth
def name_user(
    request: TykRequest, session: TykSession, metadata: Mapping[str, str], spec: Mapping[str, str]
) -> tuple[TykRequest, TykSession, Mapping[str, str]]:
    """Tell the upstream whose key it was, and never the key."""
    request.add_header("X-User", metadata.get("user", "unknown"))
    request.delete_header("Authorization")
    return request, session, metadata
''',
    """
def test_the_upstream_gets_the_user_and_no_key(tyk_call: HookCaller) -> None:
    headers = tyk_call(name_user, headers={"Authorization": "key"}, metadata={"user": "demo"}).headers
    assert headers["X-User"] == "demo"
    assert "Authorization" not in headers
""",
    _REQUEST | {_MAPPING, "from tyk.decorators import PostKeyAuth"},
)

POST: Final = HookTemplate(
    "name_bundle",
    "post",
    '''
@Post
def name_bundle(request: TykRequest, session: TykSession, spec: Mapping[str, str]) -> tuple[TykRequest, TykSession]:
    """Tell the upstream what handled the request."""
    request.add_header("X-Handled-By", "@BUNDLE@")
    return request, session
''',
    """
def test_the_upstream_gets_the_bundle(tyk_call: HookCaller) -> None:
    assert tyk_call(name_bundle).headers["X-Handled-By"] == "@BUNDLE@"
""",
    _REQUEST | {_MAPPING, "from tyk.decorators import Post"},
)

RESPONSE: Final = HookTemplate(
    "hide_server",
    "response",
    '''
@Response(on_error="continue")
def hide_server(
    request: TykRequest,
    response: TykResponse,
    session: TykSession,
    metadata: Mapping[str, str],
    spec: Mapping[str, str],
) -> TykResponse:
    """Say nothing about the upstream's software."""
    response.headers.pop("Server", None)
    return response
''',
    """
def test_the_server_is_hidden(tyk_call: HookCaller) -> None:
    result = tyk_call(hide_server, response_headers={"Server": "secret", "X-Other": "kept"})
    assert dict(result.response.headers) == {"X-Other": "kept"}
""",
    _REQUEST | {_MAPPING, "from tyk.decorators import Response", "from tyk.response import TykResponse"},
)

EVENT: Final = HookTemplate(
    "log_event",
    "",
    '''
@Event
def log_event(event: TykEvent, spec: Mapping[str, str]) -> None:
    """Log an event; the API definition lists the events that come here under `event_handlers`."""
    tyk.log(f"{event.message.Type} in API {spec['APIID']}", "warning")
''',
    """
def test_an_event_is_handled(tyk_call: HookCaller) -> None:
    tyk_call.event(log_event, {"Type": "AuthFailure"}, spec={"APIID": "1"})
""",
    frozenset(
        {
            _MAPPING,
            "from gateway import TykGateway as tyk",
            "from tyk.decorators import Event",
            "from tyk.event import TykEvent",
        }
    ),
)

TEMPLATES: Final[Mapping[str, HookTemplate]] = {
    "pre": PRE,
    "auth": AUTH,
    "post-key-auth": POST_KEY_AUTH,
    "post": POST,
    "response": RESPONSE,
    "event": EVENT,
}
"""By the names that `--hooks` takes."""
