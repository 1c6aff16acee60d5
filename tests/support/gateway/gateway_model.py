"""A model of what a Tyk gateway does to a request and a response around each hook call, rule by rule of its contract.

Written independently of `workers.objects.chain`, on real multi-valued headers and queries: one can judge the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit

from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import Header

Call: TypeAlias = Callable[[Object], Object]
Values: TypeAlias = dict[str, list[str]]


def canonical(key: str) -> str:
    """Spell a header as Go's net/http does."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in key.split("-"))


@dataclass
class HttpRequest:
    """A request as the gateway holds it."""

    method: str = "GET"
    url: str = "/"
    host: str = "example.com"
    headers: Values = field(default_factory=dict)
    body: bytes = b""

    @property
    def query(self) -> Values:
        """The parsed query."""
        return parse_qs(urlsplit(self.url).query, keep_blank_values=True)


@dataclass
class HttpResponse:
    """A response as the gateway holds it."""

    status: int = 200
    headers: Values = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Outcome:
    """What the gateway's client would see if the chain ended early."""

    status: int
    headers: dict[str, str]
    body: str


class Gateway:
    """Calls hooks one by one, as a gateway does for an API."""

    def __init__(self, request: HttpRequest, bundle_hash: str, response: HttpResponse | None = None) -> None:
        self.request = request
        self.response = response
        self.uri = request.url
        self.spec = {"bundle_hash": bundle_hash, "APIID": "api", "OrgID": "org"}
        self.session: dict[str, Any] | None = None
        self.rewritten: str | None = None
        """The target of the API's URL rewrite, which its Post hooks see."""

    def call_request_hook(
        self, call: Call, name: str, hook_type: str, *, raw_body_only: bool = False
    ) -> Outcome | None:
        """Call one hook and apply its answer; an outcome ends the request."""
        answer = call(self.build(name, hook_type, raw_body_only=raw_body_only)).request
        request = self.request
        request.body = answer.raw_body
        for key in answer.delete_headers:
            request.headers.pop(canonical(key), None)
        for key, value in answer.set_headers.items():
            request.headers[canonical(key)] = [value]
        query = request.query
        for key in answer.delete_params:
            query.pop(key, None)
        for key, value in answer.add_params.items():
            query[key] = [value]
        if not answer.url.startswith(("/", "http://")):
            return Outcome(500, {}, "Middleware error")
        if self.rewritten is None:
            request.url = answer.url
        else:
            self.rewritten = answer.url
        if request.query != query:
            path = request.url.partition("?")[0]
            encoded = urlencode(sorted(query.items()), doseq=True)
            request.url = f"{path}?{encoded}" if encoded else path
        request.method = answer.method
        override = answer.return_overrides
        if override.response_code > 0:
            body = override.response_error or override.response_body
            return Outcome(override.response_code, dict(override.headers), body)
        return None

    def call_response_hook(self, call: Call, name: str, *, raw_body_only: bool = False) -> None:
        """Call one response hook and apply its answer."""
        sent = self.build(name, "Response", raw_body_only=raw_body_only)
        answer = call(sent).response
        assert self.response is not None
        many = [(header.key, list(header.values)) for header in answer.multivalue_headers]
        if dict(answer.headers) != dict(sent.response.headers):
            many = [_synced(key, value, many) for key, value in answer.headers.items()]
        self.response.headers = {}
        for key, values in many:
            self.response.headers.setdefault(canonical(key), []).extend(values)
        self.response.body = answer.raw_body
        self.response.status = answer.status_code

    def build(self, name: str, hook_type: str, *, raw_body_only: bool = False) -> Object:
        """Build the object for one call."""
        request = self.request
        sent = Object(hook_type=hook_type, hook_name=name, spec=self.spec)
        for key, values in request.headers.items():
            sent.request.headers[key] = values[0]
        sent.request.headers["Host"] = request.host
        for key, values in request.query.items():
            sent.request.params[key] = values[0]
        sent.request.method = request.method
        sent.request.url, sent.request.request_uri = self.rewritten or request.url, self.rewritten or self.uri
        sent.request.scheme, sent.request.raw_body = "http", request.body
        sent.request.body = "" if raw_body_only else _text(request.body)
        sent.request.return_overrides.response_code = -1
        if self.session is not None and hook_type not in ("Pre", "CustomKeyCheck"):
            sent.session.CopyFrom(Object(session=self.session).session)
            sent.metadata.update(sent.session.metadata)
        if self.response is not None:
            response = sent.response
            response.status_code, response.raw_body = self.response.status, self.response.body
            response.body = "" if raw_body_only else _text(self.response.body)
            for key, values in self.response.headers.items():
                response.headers[key] = values[0]
                response.multivalue_headers.append(Header(key=key, values=values))
        return sent


def _synced(key: str, value: str, many: list[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    """Merge headers: a new key is added, a changed one replaces the first value."""
    for known, values in many:
        if known == key:
            return key, [value, *values[1:]]
    return key, [value]


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return ""
