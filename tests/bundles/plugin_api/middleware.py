"""The plugin API as authors use it, with the import names of today's embedded driver."""

import json

import coprocess_common_pb2
import coprocess_mini_request_object_pb2
import coprocess_object_pb2
import coprocess_response_object_pb2
import coprocess_return_overrides_pb2
import coprocess_session_state_pb2

from gateway import TykGateway as tyk
from tyk.decorators import *
from tyk.gateway import TykGateway
from tyk.session import AccessDefinition, AccessSpec, BasicAuthData, JWTData, Monitor, TykSession


def respond(request, **values):
    request.object.return_overrides.response_code = 200
    request.object.return_overrides.response_body = json.dumps(values)


@Hook
def old_names(request, session, metadata, spec):
    respond(
        request,
        same_gateway=tyk is TykGateway,
        mini_request=isinstance(request.object, coprocess_mini_request_object_pb2.MiniRequestObject),
        overrides=isinstance(request.object.return_overrides, coprocess_return_overrides_pb2.ReturnOverrides),
        session=type(session) is TykSession is coprocess_session_state_pb2.SessionState,
        object=coprocess_object_pb2.Object.DESCRIPTOR.full_name,
        response=coprocess_response_object_pb2.ResponseObject.DESCRIPTOR.full_name,
        pre=coprocess_common_pb2.HookType.Value("Pre"),
    )
    return request, session, metadata


@Pre
def wrapper(request, session, spec):
    present, absent = request.get_header("X-Present"), request.get_header("X-Absent")
    request.add_header("X-Seen", json.dumps([present, absent]))
    request.delete_header("X-Present")
    request.add_param("added", "1")
    request.delete_param("deleted")
    return request, session


@CustomKeyCheck
def fill_session(request, session, metadata, spec):
    session.MergeFrom(
        TykSession(
            alias="built",
            basic_auth_data=BasicAuthData(password="p", hash="bcrypt"),
            jwt_data=JWTData(secret="s"),
            monitor=Monitor(trigger_limits=[80.0, 60.0]),
        )
    )
    right = AccessDefinition(api_id=spec["APIID"], allowed_urls=[AccessSpec(url="/", methods=["GET"])])
    session.access_rights[spec["APIID"]].CopyFrom(right)
    metadata["token"] = "built"
    return request, session, metadata


@Hook
def three_arguments(request, session, spec):
    request.add_header("X-Shape", "three")
    return request, session


@Hook
def four_arguments(request, session, metadata, spec):
    request.add_header("X-Shape", "four")
    return request, session, metadata


@Hook
def five_arguments(request, response, session, metadata, spec):
    response.headers["X-Shape"] = "five"
    return response


@Hook
def six_arguments(request, response, session, metadata, spec, more):
    return response


@CustomKeyCheck
def merge_metadata(request, session, metadata, spec):
    return request, session, {"token": "merged", "of": "another map"}


@Pre
def store(request, session, spec):
    tyk.store_data(request.get_header("X-Key"), request.get_header("X-Value"), int(request.get_header("X-Ttl")))
    return request, session


@Pre
def load(request, session, spec):
    value = tyk.get_data(request.get_header("X-Key"))
    respond(request, type=type(value).__name__, value=value.decode())
    return request, session


@Pre
def log(request, session, spec):
    for level in ("debug", "info", "warning", "error", "anything else"):
        tyk.log(f"logged as {level}", level)
    tyk.log_error("logged as an error")
    return request, session


@Pre
def trigger(request, session, spec):
    tyk.trigger_event("SomethingHappened", {"what": request.get_header("X-Key")})
    return request, session


@Event
def on_auth_failure(event, spec):
    seen = {
        "type": event.message.Type,
        "path": event.message.Meta.Path,
        "key": event.message.Meta.Key,
        "request": event.message.Meta.OriginatingRequest,
        "time": event.message.TimeStamp,
        "handler": event.handler_name,
        "api": event.spec.APIID,
        "same": dict(event.spec) == dict(spec),
    }
    tyk.store_data(f"event-of-{event.spec.APIID}", json.dumps(seen), 60)


@Pre
def refuse(request, session, spec):
    request.object.return_overrides.response_code = 403
    return request, session


@Pre
async def asynchronous(request, session, spec):
    import asyncio

    await asyncio.sleep(0)
    request.add_header("X-Shape", "async")
    return request, session


@Pre
def new_object(request, session, spec):
    changed = coprocess_mini_request_object_pb2.MiniRequestObject()
    changed.CopyFrom(request.object)
    changed.set_headers["X-Shape"] = "another object"
    return changed, session
