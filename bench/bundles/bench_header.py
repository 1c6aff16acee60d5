"""`header`: adds one header."""

from tyk.decorators import Post
from tyk.request import TykRequest
from tyk.session import TykSession


@Post
def bench_header(request: TykRequest, session: TykSession, spec: dict[str, str]) -> tuple[TykRequest, TykSession]:
    """The least that a hook does."""
    request.add_header("X-Bench", "1")
    return request, session
