"""A header for the upstream, and one for the client."""

from tyk.decorators import Pre, Response


@Pre
def add_hello(request, session, spec):
    request.add_header("X-Hello", "from Python")
    return request, session


@Response
def say_hello(request, response, session, metadata, spec):
    response.headers["X-Hello"] = "from Python"
    return response
