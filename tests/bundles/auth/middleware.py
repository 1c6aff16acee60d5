"""Auth hooks: the Authorization header is the token."""

import json

from tyk.decorators import *
from tyk.session import AccessDefinition, AccessSpec


@CustomKeyCheck
def token_by_metadata(request, session, metadata, spec):
    metadata["token"] = request.get_header("Authorization")
    return request, session, metadata


@CustomKeyCheck
def token_by_session_metadata(request, session, metadata, spec):
    session.metadata["token"] = request.get_header("Authorization")
    return request, session, metadata


@CustomKeyCheck
def token_in_three_arguments(request, session, spec):
    session.metadata["token"] = request.get_header("Authorization")
    return request, session


@CustomKeyCheck
def no_token(request, session, metadata, spec):
    session.alias = "nobody"
    return request, session, metadata


@CustomKeyCheck
def nothing_at_all(request, session, spec):
    return request, session


@CustomKeyCheck
def refuse(request, session, metadata, spec):
    metadata["token"] = request.get_header("Authorization")
    request.object.return_overrides.response_code = 401
    request.object.return_overrides.response_error = "who are you?"
    return request, session, metadata


@CustomKeyCheck
def fail(request, session, metadata, spec):
    raise RuntimeError("the directory is down")


@CustomKeyCheck
def fill(request, session, metadata, spec):
    """Every field, from the request's X-Session header."""
    for name, value in json.loads(request.get_header("X-Session")).items():
        if isinstance(value, list):
            getattr(session, name).extend(value)
        else:
            setattr(session, name, value)
    metadata["token"] = request.get_header("Authorization")
    return request, session, metadata


@CustomKeyCheck
def with_access_rights(request, session, metadata, spec):
    urls = [AccessSpec(url="/a", methods=["GET"]), AccessSpec(url="/b", methods=["GET", "POST"])]
    right = AccessDefinition(api_name="mine", api_id=spec["APIID"], versions=["Default"], allowed_urls=urls)
    session.access_rights[spec["APIID"]].CopyFrom(right)
    metadata["token"] = request.get_header("Authorization")
    return request, session, metadata


@CustomKeyCheck
def without_access(request, session, metadata, spec):
    session.access_rights["another-api"].api_id = "another-api"
    metadata["token"] = request.get_header("Authorization")
    return request, session, metadata


@Post
def show_session(request, session, metadata, spec):
    request.add_header("X-Session-Metadata", json.dumps(dict(metadata), sort_keys=True))
    request.add_header("X-Remaining", str(session.quota_remaining))
    return request, session, metadata
