"""Request hooks that do what the request's own headers say: X-Code, X-Url, X-Method and so on."""

import json

from tyk.decorators import *


@Pre
def set_raw_body(request, session, spec):
    request.object.raw_body = bytes.fromhex(request.get_header("X-Body"))
    return request, session


@Pre
def set_only_body(request, session, spec):
    request.object.body = "from the hook"
    return request, session


@Pre
def change_headers(request, session, spec):
    request.delete_header("X-Gone")
    request.delete_header("X-Both")
    request.add_header("X-Both", "set")
    request.add_header("X-Many", "one only")
    request.add_header("x-new", "new")
    return request, session


@Pre
def change_params(request, session, spec):
    request.delete_param("gone")
    request.delete_param("both")
    request.add_param("both", "set")
    request.add_param("new", "a b&c")
    return request, session


@Pre
def set_url(request, session, spec):
    request.object.url = request.get_header("X-Url") or ""
    return request, session


@Pre
def set_method(request, session, spec):
    request.object.method = request.get_header("X-Method")
    return request, session


@Pre
def set_what_is_ignored(request, session, spec):
    request.object.headers["X-Ignored"] = "1"
    request.object.params["ignored"] = "1"
    request.object.body = "ignored"
    request.object.scheme = "gopher"
    request.object.request_uri = "/ignored"
    return request, session


@Pre
def clear_overrides(request, session, spec):
    request.object.ClearField("return_overrides")
    return request, session


@Hook
def override(request, session, metadata, spec):
    overrides = request.object.return_overrides
    for name, value in json.loads(request.get_header("X-Override")).items():
        if name == "headers":
            overrides.headers.update(value)
        else:
            setattr(overrides, name, value)
    return request, session, metadata


@Hook
def fail(request, session, spec):
    raise ValueError("as it was told to")


@Hook
def pass_through(request, session, spec):
    return request, session


@Hook
def change_session(request, session, metadata, spec):
    session.alias = "changed"
    session.quota_max = 1
    session.metadata["colour"] = "red"
    metadata["shape"] = "round"
    return request, session, metadata


@CustomKeyCheck
def let_in(request, session, metadata, spec):
    metadata["token"] = "let-in"
    return request, session, metadata
