"""The hook of the benchmark: adds one header, as a user would write it."""

from typing import Any

from tyk.decorators import Post


@Post
def AddHeader(request: Any, session: Any, spec: Any) -> tuple[Any, Any]:
    request.add_header("X-Bench", "1")
    return request, session
