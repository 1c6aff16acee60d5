"""Hooks of every type that answer the request with what they were given, as JSON."""

import base64
import json

from google.protobuf.json_format import MessageToDict

from tyk.decorators import *
from tyk.decorators import Response


def as_dict(message):
    return MessageToDict(message, preserving_proto_field_name=True)


def describe(request, **others):
    body = {name: as_dict(value) if hasattr(value, "DESCRIPTOR") else dict(value) for name, value in others.items()}
    body["request"] = as_dict(request.object)
    # JSON has no difference between an empty string and a field that is not there.
    body["body"] = request.object.body
    body["raw_body"] = base64.b64encode(request.object.raw_body).decode()
    body["response_code"] = request.object.return_overrides.response_code
    return json.dumps(body)


def answer(request, **others):
    text = describe(request, **others)
    request.object.return_overrides.response_code = 200
    request.object.return_overrides.response_body = text


@Pre
def report_pre(request, session, spec):
    answer(request, session=session, spec=spec)
    return request, session


@CustomKeyCheck
def report_auth(request, session, metadata, spec):
    answer(request, session=session, metadata=metadata, spec=spec)
    return request, session, metadata


@PostKeyAuth
def report_post_key_auth(request, session, metadata, spec):
    answer(request, session=session, metadata=metadata, spec=spec)
    return request, session, metadata


@Post
def report_post(request, session, metadata, spec):
    answer(request, session=session, metadata=metadata, spec=spec)
    return request, session, metadata


@Response
def report_response(request, response, session, metadata, spec):
    report = describe(request, response=response, session=session, metadata=metadata, spec=spec)
    response.raw_body = json.dumps({**json.loads(report), "response_body": response.body}).encode()
    response.headers["Content-Encoding"] = "identity"
    return response


@CustomKeyCheck
def let_in(request, session, metadata, spec):
    session.alias = "somebody"
    session.metadata["token"] = request.get_header("Authorization") or "nobody"
    session.metadata["colour"] = "blue"
    return request, session, metadata


@Pre
def rewrite(request, session, spec):
    request.object.url = request.object.url.replace("/echo", "/elsewhere")
    return request, session


@Pre
def note_first(request, session, spec):
    request.add_header("X-Order", "first")
    return request, session


@Pre
def note_second(request, session, spec):
    request.add_header("X-Order", request.get_header("X-Order") + ",second")
    return request, session


@Pre
def note_third(request, session, spec):
    request.add_header("X-Order", request.get_header("X-Order") + ",third")
    return request, session
