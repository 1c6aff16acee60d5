"""How a request ends before its way through the gateway does, and what the client is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tykpy.devserver.messages import GatewayRequest, GatewayResponse
from tykpy.workers.dispatch.ignored_changes import MAX_CODE, MIN_CODE

MIDDLEWARE_ERROR: Final = "Middleware error"
PROXY_ERROR: Final = "There was a problem proxying the request"
_JSON: Final = '{\n    "error": "%s"\n}'
_XML: Final = '<?xml version = "1.0" encoding = "UTF-8"?>\n<error>%s</error>'
_XML_TYPES: Final = ("application/xml", "text/xml")
_ESCAPES: Final = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
}
"""As Go's `template.JSEscapeString`."""


class Refused(Exception):  # noqa: N818 (no error of ours: an outcome)
    """The request fails with Tyk's error template."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


class Answered(Exception):  # noqa: N818
    """A hook, or the gateway itself, has answered."""

    def __init__(self, response: GatewayResponse) -> None:
        super().__init__(str(response.status))
        self.response = response


@dataclass(frozen=True, slots=True)
class ErrorTemplates:
    """The bodies of error answers; `%s` is the message."""

    json: str = _JSON
    xml: str = _XML
    headers: Mapping[str, str] = field(default_factory=lambda: {"X-Generator": "tyk.io"})

    def response(self, refused: Refused, request: GatewayRequest) -> GatewayResponse:
        """Make the answer: in XML if the request's content type is XML, else in JSON."""
        kind = request.header("Content-Type").partition(";")[0]
        is_xml = kind in _XML_TYPES
        body = (self.xml if is_xml else self.json) % escaped(refused.message)
        headers = {**refused.headers, **self.headers, "Content-Type": kind if is_xml else "application/json"}
        return GatewayResponse(refused.status, {name: [value] for name, value in headers.items()}, body.encode())


def is_writable(response: GatewayResponse) -> bool:
    """Whether Go's net/http writes this status; otherwise the gateway's handler panics, and the connection drops."""
    return MIN_CODE <= response.status <= MAX_CODE


def escaped(text: str) -> str:
    """Escape a message as the gateway does."""
    return "".join(_ESCAPES.get(char) or (char if char.isprintable() else f"\\u{ord(char):04X}") for char in text)
