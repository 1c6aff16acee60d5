"""Response hooks."""

from tyk.decorators import *
from tyk.decorators import Response


@Response
def nothing_changed(request, response, session, metadata, spec):
    return response


@Response
def returns_nothing(request, response, session, metadata, spec):
    response.raw_body = b"changed in place"


@Response
def set_raw_body(request, response, session, metadata, spec):
    response.raw_body = b"\xff from the hook"
    return response


@Response
def set_only_body(request, response, session, metadata, spec):
    response.body = "from the hook"
    return response


@Response
def set_status(request, response, session, metadata, spec):
    response.status_code = 418
    return response


@Response
def zero_status(request, response, session, metadata, spec):
    response.status_code = 0
    return response


@Response
def change_headers(request, response, session, metadata, spec):
    response.headers["X-New"] = "new"
    response.headers["Set-Cookie"] = "z=26"
    del response.headers["X-Upstream"]
    return response


@Response
def change_multivalue_headers(request, response, session, metadata, spec):
    cookies = next(header for header in response.multivalue_headers if header.key == "Set-Cookie")
    cookies.values.append("d=4")
    response.multivalue_headers.add(key="X-Pair", values=["one", "two"])
    return response


@Response
def add_cookies_and_header(request, response, session, metadata, spec):
    response.multivalue_headers.add(key="X-Lost", values=["not in headers"])
    response.headers["X-New"] = "new"
    return response


@Response
def describe_body(request, response, session, metadata, spec):
    response.headers["X-Sizes"] = f"{len(response.raw_body)} {len(response.body)}"
    return response


@Response
def new_object(request, response, session, metadata, spec):
    new = type(response)(status_code=202, raw_body=b"another object")
    new.headers["X-Another"] = "yes"
    return new


@Response
def fail(request, response, session, metadata, spec):
    raise ValueError("as it was told to")
