"""How a request ends before its way through the gateway does, and what the client is told."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from tykpy.devserver.definitions.reading import read_text
from tykpy.devserver.errors import DefinitionError
from tykpy.devserver.messages import GatewayRequest, GatewayResponse
from tykpy.workers.dispatch.ignored_changes import MAX_CODE, MIN_CODE

MIDDLEWARE_ERROR: Final = "Middleware error"
PROXY_ERROR: Final = "There was a problem proxying the request"
_JSON: Final = '{\n    "error": "{{.Message}}"\n}'
_XML: Final = '<?xml version = "1.0" encoding = "UTF-8"?>\n<error>{{.Message}}</error>'
_NAME: Final = re.compile(r"error(_\d{3})?\.(json|xml)")
_ACTION: Final = re.compile(r"\{\{-?\s*\.(Message|StatusCode)\s*-?\}\}")
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
    """The bodies of error answers: Tyk's own, or those of its `template_path`."""

    files: Mapping[str, str] = field(default_factory=lambda: {"error.json": _JSON, "error.xml": _XML})
    """Texts by names of files: `error.json`, `error_404.xml` ..."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder of templates, which may have `{{.Message}}` and `{{.StatusCode}}`. Raises DefinitionError."""
        found = {path.name: _read(path) for path in folder.glob("error*") if _NAME.fullmatch(path.name)}
        return cls({**cls().files, **found})

    def response(self, refused: Refused, request: GatewayRequest) -> GatewayResponse:
        """Make the answer: in XML if the request's content type is XML, else in JSON."""
        kind = request.header("Content-Type").partition(";")[0]
        ending = "xml" if kind in _XML_TYPES else "json"
        text = self.files.get(f"error_{refused.status}.{ending}") or self.files[f"error.{ending}"]
        values = {"Message": escaped(refused.message), "StatusCode": str(refused.status)}
        body = _ACTION.sub(lambda found: values[found[1]], text)
        content_type = kind if ending == "xml" else "application/json"
        headers = {**refused.headers, "X-Generator": "tyk.io", "Content-Type": content_type}
        return GatewayResponse(refused.status, {name: [value] for name, value in headers.items()}, body.encode())


def is_writable(response: GatewayResponse) -> bool:
    """Whether Go's net/http writes this status; otherwise the gateway's handler panics, and the connection drops."""
    return MIN_CODE <= response.status <= MAX_CODE


def escaped(text: str) -> str:
    """Escape a message as the gateway does."""
    return "".join(_ESCAPES.get(char) or (char if char.isprintable() else f"\\u{ord(char):04X}") for char in text)


def _read(path: Path) -> str:
    text = read_text(path)
    rest = _ACTION.sub(lambda found: " " * len(found[0]), text)
    if (position := rest.find("{{")) >= 0:
        line = rest.count("\n", 0, position) + 1
        raise DefinitionError("tykpy dev knows only {{.Message}} and {{.StatusCode}}", str(path), line)
    return text
