"""`chain`: five hooks in one dispatch, called together as `*`."""

from tyk.decorators import Post
from tyk.request import TykRequest
from tyk.session import TykSession

Result = tuple[TykRequest, TykSession]


@Post
def bench_chain_1(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Add the first header."""
    request.add_header("X-Bench-1", "1")
    return request, session


@Post
def bench_chain_2(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Add the second header."""
    request.add_header("X-Bench-2", "1")
    return request, session


@Post
def bench_chain_3(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Add the third header."""
    request.add_header("X-Bench-3", "1")
    return request, session


@Post
def bench_chain_4(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Add the fourth header."""
    request.add_header("X-Bench-4", "1")
    return request, session


@Post
def bench_chain_5(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Add the last header."""
    request.add_header("X-Bench-5", "1")
    return request, session
