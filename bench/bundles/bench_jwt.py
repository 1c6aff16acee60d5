"""`jwt`: checks a JSON Web Token with nothing but the standard library."""

import base64
import hashlib
import hmac
import json
import time

from tyk.decorators import CustomKeyCheck
from tyk.request import TykRequest
from tyk.session import TykSession

SECRET = b"a secret of the benchmark, and of no use elsewhere"


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _claims(token: str) -> dict[str, str] | None:
    signed, _, signature = token.rpartition(".")
    digest = hmac.new(SECRET, signed.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(digest, _decode(signature)):
        return None
    header, _, payload = signed.partition(".")
    claims = json.loads(_decode(payload))
    if json.loads(_decode(header)).get("alg") != "HS256" or claims["exp"] < time.time():
        return None
    return dict(claims)


@CustomKeyCheck
def bench_jwt(
    request: TykRequest, session: TykSession, metadata: dict[str, str], spec: dict[str, str]
) -> tuple[TykRequest, TykSession, dict[str, str]]:
    """Signature, algorithm and expiry; the claims become a session."""
    token = (request.get_header("Authorization") or "").removeprefix("Bearer ")
    claims = _claims(token)
    if claims is None:
        request.object.return_overrides.response_code = 401
        request.object.return_overrides.response_error = "Not authorized"
        return request, session, metadata
    session.alias = claims["sub"]
    session.rate, session.per = 1000.0, 1.0
    metadata["token"] = token
    return request, session, metadata
