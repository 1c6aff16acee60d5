"""`session`: reads and changes a session with many access rights."""

from tyk.decorators import PostKeyAuth
from tyk.request import TykRequest
from tyk.session import TykSession


@PostKeyAuth
def bench_session(
    request: TykRequest, session: TykSession, metadata: dict[str, str], spec: dict[str, str]
) -> tuple[TykRequest, TykSession, dict[str, str]]:
    """Counts the APIs that the key may use."""
    allowed = sum(1 for definition in session.access_rights.values() if definition.allowed_urls)
    request.add_header("X-Bench", str(allowed))
    session.tags.append("bench")
    return request, session, metadata
