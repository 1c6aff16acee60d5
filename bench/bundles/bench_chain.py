"""`chain`: five hooks in one dispatch, called together as `*`."""

from tyk.decorators import Post
from tyk.request import TykRequest
from tyk.session import TykSession

CaseResult = tuple[TykRequest, TykSession]


@Post
def bench_chain_1(request: TykRequest, session: TykSession, spec: dict[str, str]) -> CaseResult:
    """The first of five."""
    request.add_header("X-Bench-1", "1")
    return request, session


@Post
def bench_chain_2(request: TykRequest, session: TykSession, spec: dict[str, str]) -> CaseResult:
    """The second."""
    request.add_header("X-Bench-2", "1")
    return request, session


@Post
def bench_chain_3(request: TykRequest, session: TykSession, spec: dict[str, str]) -> CaseResult:
    """The third."""
    request.add_header("X-Bench-3", "1")
    return request, session


@Post
def bench_chain_4(request: TykRequest, session: TykSession, spec: dict[str, str]) -> CaseResult:
    """The fourth."""
    request.add_header("X-Bench-4", "1")
    return request, session


@Post
def bench_chain_5(request: TykRequest, session: TykSession, spec: dict[str, str]) -> CaseResult:
    """The last."""
    request.add_header("X-Bench-5", "1")
    return request, session
