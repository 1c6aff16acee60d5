"""The hooks of all built-in scenarios but `chain`, with nothing but the standard library."""

import asyncio
import base64
import hashlib
import hmac
import json
import time

from tyk.decorators import CustomKeyCheck, Post, PostKeyAuth
from tyk.request import TykRequest
from tyk.session import TykSession

CPU_NS = 2_000_000
WAIT_SECONDS = 0.02
JWT_SECRET = b"a secret of the benchmark, and of no use elsewhere"

Result = tuple[TykRequest, TykSession]
ResultWithMetadata = tuple[TykRequest, TykSession, dict[str, str]]


@Post
def bench_header(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Add one header: the least that a hook does."""
    request.add_header("X-Bench", "1")
    return request, session


@Post
def bench_cpu(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Work until this thread has used 2 ms of a CPU, whatever the machine."""
    end = time.thread_time_ns() + CPU_NS
    while time.thread_time_ns() < end:
        sum(range(100))
    return bench_header(request, session, spec)


@Post
def bench_wait(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Wait in a thread, as for a database."""
    time.sleep(WAIT_SECONDS)
    return bench_header(request, session, spec)


@Post
async def bench_wait_async(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Wait in a coroutine."""
    await asyncio.sleep(WAIT_SECONDS)
    return bench_header(request, session, spec)


@Post
def bench_json(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Add a total to an order in JSON."""
    body = json.loads(request.object.raw_body)
    body["total"] = sum(item["count"] for item in body["items"])
    request.object.raw_body = json.dumps(body).encode()
    return request, session


@PostKeyAuth
def bench_session(
    request: TykRequest, session: TykSession, metadata: dict[str, str], spec: dict[str, str]
) -> ResultWithMetadata:
    """Count the APIs that a key may use, and tag its session."""
    allowed = sum(1 for definition in session.access_rights.values() if definition.allowed_urls)
    request.add_header("X-Bench", str(allowed))
    session.tags.append("bench")
    return request, session, metadata


@CustomKeyCheck
def bench_jwt(
    request: TykRequest, session: TykSession, metadata: dict[str, str], spec: dict[str, str]
) -> ResultWithMetadata:
    """Check signature, algorithm and expiry of a JWT; its claims become a session."""
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


def _claims(token: str) -> dict[str, str] | None:
    signed, _, signature = token.rpartition(".")
    digest = hmac.new(JWT_SECRET, signed.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(digest, _decode(signature)):
        return None
    header, _, payload = signed.partition(".")
    claims = json.loads(_decode(payload))
    if json.loads(_decode(header)).get("alg") != "HS256" or claims["exp"] < time.time():
        return None
    return dict(claims)


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
