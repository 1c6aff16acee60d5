"""Describe changes that the gateway ignores, or answers with an error, without telling the author.

`tykpy lint` and the workers' warnings use these sentences. Source: Tyk's gateway/coprocess.go and mw_response_hook.
"""

from dataclasses import dataclass
from typing import Final

MIN_CODE: Final = 100
MAX_CODE: Final = 999
"""The range of status codes that Go's net/http writes."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A kind of change that the gateway ignores."""

    rule: str
    """The rule that finds it, as in `# tykpy: ignore[request-body]`."""
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what}; {self.instead}"


REQUEST_BODY: Final = Ignored(
    "request-body",
    "the gateway ignores request.object.body",
    "write request.object.raw_body = text.encode()",
)
REQUEST_HEADERS: Final = Ignored(
    "request-headers",
    "the gateway ignores changes in request.object.headers",
    "write request.add_header(name, value) or request.delete_header(name)",
)
REQUEST_PARAMS: Final = Ignored(
    "request-params",
    "the gateway ignores changes in request.object.params",
    "write request.add_param(name, value) or request.delete_param(name)",
)
REQUEST_FIXED: Final = Ignored(
    "request-fixed",
    "the gateway ignores request.object.scheme and request.object.request_uri",
    "write request.object.url = path for another path; the scheme is the upstream's own",
)
URL_QUERY: Final = Ignored(
    "url-query",
    "the gateway keeps the query that came, whatever query is in request.object.url",
    "write request.add_param(name, value) or request.delete_param(name)",
)
REWRITTEN_PARAMS: Final = Ignored(
    "rewritten-params",
    "after a URL rewrite of the API the gateway ignores add_param and delete_param",
    "write the query into request.object.url",
)
REWRITTEN_PATH: Final = Ignored(
    "rewritten-path",
    "after a URL rewrite of the API to another host the gateway answers 500 for a path alone",
    "write a whole URL with scheme and host, as the one that came",
)
HOST: Final = Ignored(
    "host",
    "the gateway ignores a Host header that a hook sets",
    "set the API's target, or preserve_host_header in its definition",
)
OVERRIDE_CODE: Final = Ignored(
    "override-code",
    "the gateway drops the connection for a response_code below 100 or above 999",
    "write return_overrides.response_code = 200, or whatever it should be",
)
URL_EMPTY: Final = Ignored(
    "url-empty",
    "the gateway answers 500 where request.object.url is empty or cannot be parsed",
    'write a path that begins with "/"',
)
SESSION: Final = Ignored(
    "session",
    "the gateway keeps the session (and metadata) of CustomKeyCheck hooks only and drops this change",
    "change it in the CustomKeyCheck hook, or tell upstream with request.add_header(name, value)",
)
NO_TOKEN: Final = Ignored(
    "no-token",
    "the gateway answers 403 where an authentication leaves no token, and this hook never leaves one",
    'write metadata["token"] = key (with three arguments: session.metadata["token"] = key)',
)
RESPONSE_BODY: Final = Ignored(
    "response-body",
    "the gateway ignores response.body",
    "write response.raw_body = text.encode()",
)
RESPONSE_STATUS: Final = Ignored(
    "response-status",
    "a response with the status 0 breaks the gateway's answer",
    "write response.status_code = 200, or whatever it should be",
)
RESPONSE_HEADERS: Final = Ignored(
    "response-headers",
    "where response.headers changes, the gateway drops headers that are only in response.multivalue_headers",
    "write response.headers[name] = first_value as well",
)
RESPONSE_REQUEST: Final = Ignored(
    "response-request",
    "the gateway ignores what a response hook does to the request and its return_overrides",
    "change response instead",
)
