"""Objects as the gateway builds them for a hook, and how it applies what comes back (Tyk: gateway/coprocess.go)."""

import json
from urllib.parse import unquote_to_bytes

from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import Header, ResponseObject
from tyk.proto.coprocess_session_state_pb2 import SessionState
from tyk.request import canonical_header
from tykpy.bundles.files.discovery import name_hash
from tykpy.devserver.definitions.api import Api, ConfiguredHook
from tykpy.devserver.messages import GatewayRequest, GatewayResponse, Values, as_text, first_values
from tykpy.workers.objects.go_urls import encode_query, parse_query, split_query

NO_OVERRIDE = -1
"""The response code of an object that overrides nothing."""


def build_object(
    api: Api,
    hook: ConfiguredHook,
    hook_type: str,
    request: GatewayRequest,
    session: SessionState | None,
    response: GatewayResponse | None = None,
) -> Object:
    """Build what a hook receives. Raises ValueError if a header or parameter is not UTF-8."""
    built = Object(hook_type=hook_type, hook_name=hook.name)
    _fill_request(built, hook, request)
    built.spec.update({"OrgID": api.org_id, "APIID": api.api_id, "bundle_hash": name_hash(api.bundle)})
    if api.config_data is not None:
        built.spec["config_data"] = json.dumps(api.config_data, separators=(",", ":"), ensure_ascii=False)
    if session is not None and hook_type not in ("Pre", "CustomKeyCheck"):
        built.session.CopyFrom(session)
        built.metadata.update(session.metadata)
    if response is not None:
        _fill_response(built.response, hook, response)
    if response is not None or built.HasField("session"):  # response hooks always have a session
        for part in (built.session.basic_auth_data, built.session.jwt_data, built.session.monitor):
            part.SetInParent()
    return built


def _fill_request(built: Object, hook: ConfiguredHook, request: GatewayRequest) -> None:
    message = built.request
    message.headers.update({**first_values(request.headers), "Host": request.host})
    query = split_query(request.url)[1]
    unquote_to_bytes(query).decode()  # raises UnicodeDecodeError
    message.params.update(first_values(parse_query(query)))
    message.url, message.request_uri = request.url, request.uri
    message.method, message.scheme = request.method, request.scheme
    message.raw_body = request.body
    message.body = "" if hook.raw_body_only else as_text(request.body)
    message.return_overrides.response_code = NO_OVERRIDE


def _fill_response(message: ResponseObject, hook: ConfiguredHook, response: GatewayResponse) -> None:
    message.status_code, message.raw_body = response.status, response.body
    message.body = "" if hook.raw_body_only else as_text(response.body)
    message.headers.update(first_values(response.headers))
    for name, values in response.headers.items():
        message.multivalue_headers.add(key=name, values=values)


def apply_headers(request: GatewayRequest, returned: Object) -> None:
    """Delete headers, then set headers. `Host` is not one of them."""
    for name in returned.request.delete_headers:
        request.headers.pop(canonical_header(name), None)
    for name, value in returned.request.set_headers.items():
        if canonical_header(name) != "Host":
            request.headers[canonical_header(name)] = [value]


def query_after(url: str, returned: Object) -> Values:
    """Return the query of a URL after a hook deleted parameters, then added some."""
    query = parse_query(split_query(url)[1])
    for name in returned.request.delete_params:
        query.pop(name, None)
    for name, value in returned.request.add_params.items():
        query[name] = [value]
    return query


def with_query(url: str, query: Values) -> str:
    """Return a URL with this query, which is encoded again only if it differs."""
    path, own = split_query(url)
    if parse_query(own) == query:
        return url
    return f"{path}?{encoded}" if (encoded := encode_query(query)) else path


def join_metadata(returned: Object) -> None:
    """Overwrite the session's metadata with the object's own."""
    if returned.HasField("session"):
        returned.session.metadata.update(returned.metadata)


def apply_response(response: GatewayResponse, sent: ResponseObject, returned: ResponseObject) -> None:
    """Rebuild a response from what a response hook returned."""
    many = list(returned.multivalue_headers)
    if dict(sent.headers) != dict(returned.headers):
        many = _synchronised(dict(returned.headers), many)
    headers: Values = {}
    for header in many:
        headers.setdefault(canonical_header(header.key), []).extend(header.values)
    headers["Content-Length"] = [str(len(returned.raw_body))]
    response.headers, response.body, response.status = headers, returned.raw_body, returned.status_code


def _synchronised(headers: dict[str, str], many: list[Header]) -> list[Header]:
    """Copy changes of the single values into all values: Tyk's syncHeadersAndMultiValueHeaders."""
    known: set[str] = set()
    kept: list[Header] = []
    for header in many:
        if header.key not in headers:
            continue
        values = list(header.values)
        if header.key not in known and values:
            values[0] = headers[header.key]
        known.add(header.key)
        kept.append(Header(key=header.key, values=values))
    return kept + [Header(key=key, values=[value]) for key, value in headers.items() if key not in known]
