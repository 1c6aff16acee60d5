from tyk.decorators import Pre


@Pre
def add_hello(request, session, spec):
    request.add_header("X-Hello", "from Python")
    return request, session
