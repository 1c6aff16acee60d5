"""One hook of every type. The manifest says where each one runs, and in which order."""

import asyncio
import json

from lib import keys

from gateway import TykGateway as tyk
from tyk import metrics, store
from tyk.decorators import CustomKeyCheck, Event, Post, PostKeyAuth, Pre, Response

OLDEST_CLIENT = 2
REFUSED = metrics.counter("refused_keys_total", "Keys that were refused, by API.", ["api"])


@Pre
def AddRequestId(request, session, spec):
    """Give every request an id, unless the client brought one."""
    if request.get_header("X-Request-Id") is None:
        request.add_header("X-Request-Id", f"{spec['APIID']}-{id(request):x}")
    return request, session


@Pre
def RefuseOldClients(request, session, spec):
    """Answer clients that are too old at once; the upstream is not called."""
    version = request.get_header("X-Client-Version")
    if version is not None and version.isdigit() and int(version) < OLDEST_CLIENT:
        overrides = request.object.return_overrides
        overrides.response_code = 426
        overrides.response_error = json.dumps({"error": f"version {OLDEST_CLIENT} or newer is needed"})
        overrides.override_error = True
        overrides.headers["Content-Type"] = "application/json"
    return request, session


@CustomKeyCheck(timeout=2.0, idempotent=True)
def CheckToken(request, session, metadata, spec):
    """Turn a known token into a session with the rate of its owner."""
    token = request.get_header("Authorization")
    owner = keys.find(token)
    if owner is None:
        request.object.return_overrides.response_code = 401
        request.object.return_overrides.response_error = "Not authorized"
        return request, session, metadata
    session.alias = owner["alias"]
    session.rate = owner["rate"]
    session.per = owner["per"]
    metadata["token"] = token
    metadata["owner"] = owner["alias"]
    return request, session, metadata


@PostKeyAuth
def TellUpstreamWho(request, session, metadata, spec):
    """Pass the owner on, and never the token."""
    request.add_header("X-Owner", metadata.get("owner", "unknown"))
    request.delete_header("Authorization")
    return request, session, metadata


@Post
def StampBody(request, session, spec):
    """Add a field to JSON bodies; `raw_body` is what the upstream gets."""
    try:
        body = json.loads(request.object.raw_body)
    except ValueError:
        return request, session
    if isinstance(body, dict):
        body["handled_by"] = "tykpy"
        request.object.raw_body = json.dumps(body).encode()
        request.add_header("Content-Length", str(len(request.object.raw_body)))
    return request, session


@Post
async def LookUpRegion(request, session, spec):
    """Wait for something slow without keeping the worker from other requests."""
    await asyncio.sleep(0.005)
    request.add_header("X-Region", "eu-west")
    request.delete_param("debug")
    return request, session


@Response(on_error="continue")
def HideServer(request, response, session, metadata, spec):
    """Say less about the upstream, and more about the answer."""
    response.headers.pop("Server", None)
    response.headers["X-Handled-By"] = "tykpy"
    return response


@Event
def OnAuthFailure(event, spec):
    """Count refused keys per API, for Prometheus and for the log line, which is in the broker's log."""
    REFUSED.labels(spec["APIID"]).inc()
    key = f"refused:{spec['APIID']}"
    count = store.incr(key, ttl=3600)
    tyk.log(f"{event.message.Type} at {event.message.Meta.get('Path', '?')}: {count} within the hour", "warning")
