"""An HTTP request and a response as the gateway holds them."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

from tyk.request import canonical_header

ECHO_URL: Final = "http://echo.invalid"
"""Stands for the built-in echo in URLs that hooks see; no such host can exist."""

Values: TypeAlias = dict[str, list[str]]
"""All values of each header, by its name in canonical case."""


@dataclass(slots=True)
class GatewayRequest:
    """A request on its way through the gateway. Bytes that are not UTF-8 are surrogates in its strings."""

    method: str = "GET"
    url: str = "/"
    """Path and query; absolute once it is known where the request goes."""
    headers: Values = field(default_factory=dict)
    """Without `Host`."""
    host: str = "localhost"
    body: bytes = b""
    uri: str = ""
    """The target as the client wrote it."""
    scheme: str = "http"
    client: str = ""
    """The client's address, `host:port`."""

    def __post_init__(self) -> None:
        self.uri = self.uri or self.url

    @property
    def path(self) -> str:
        """The path, without query."""
        return self.url.partition("?")[0]

    def header(self, name: str) -> str:
        """Return the first value of a header; empty without one."""
        return self.headers.get(canonical_header(name), [""])[0]

    def copy(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)


@dataclass(slots=True)
class GatewayResponse:
    """A response of the upstream, or of the gateway itself."""

    status: int = 200
    headers: Values = field(default_factory=dict)
    body: bytes = b""

    def copy(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)


def values_of(pairs: Iterable[tuple[str, str]]) -> Values:
    """Collect headers by their canonical names."""
    values: Values = {}
    for name, value in pairs:
        values.setdefault(canonical_header(name), []).append(value)
    return values


def first_values(values: Values) -> dict[str, str]:
    """Return the first value of each name."""
    return {name: of_name[0] for name, of_name in values.items()}


def as_text(body: bytes) -> str:
    """Return a body as text; empty if it is not UTF-8, as in a gateway's object."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return ""
