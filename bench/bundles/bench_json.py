"""`json`: reads a JSON body, changes it, and writes it again."""

import json

from tyk.decorators import Post
from tyk.request import TykRequest
from tyk.session import TykSession


@Post
def bench_json(request: TykRequest, session: TykSession, spec: dict[str, str]) -> tuple[TykRequest, TykSession]:
    """Adds a total to an order."""
    body = json.loads(request.object.raw_body)
    body["total"] = sum(item["count"] for item in body["items"])
    request.object.raw_body = json.dumps(body).encode()
    return request, session
