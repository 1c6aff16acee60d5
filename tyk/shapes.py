"""What hooks take and return, by shape, for type checkers: the decorators accept functions of these types only.

Arguments may have any annotation; `def` and `async def` both fit.
"""

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from tyk.request import MiniRequestObject, TykRequest
    from tyk.response import TykResponse
    from tyk.session import TykSession

__all__ = ["EventHandler", "MetadataHook", "RequestHook", "ResponseHook"]

RequestResult: TypeAlias = "tuple[TykRequest | MiniRequestObject, TykSession]"
MetadataResult: TypeAlias = "tuple[TykRequest | MiniRequestObject, TykSession, Mapping[str, str]]"


class RequestHook(Protocol):
    """`(request, session, spec)`, returns `request, session`."""

    def __call__(self, request: Any, session: Any, spec: Any, /) -> "RequestResult | Awaitable[RequestResult]":
        """Return the request and the session."""


class MetadataHook(Protocol):
    """`(request, session, metadata, spec)`, returns `request, session, metadata`."""

    def __call__(
        self, request: Any, session: Any, metadata: Any, spec: Any, /
    ) -> "MetadataResult | Awaitable[MetadataResult]":
        """Return the request, the session and the session's metadata."""


class ResponseHook(Protocol):
    """`(request, response, session, metadata, spec)`, returns `response`."""

    def __call__(
        self, request: Any, response: Any, session: Any, metadata: Any, spec: Any, /
    ) -> "TykResponse | Awaitable[TykResponse]":
        """Return the response."""


class EventHandler(Protocol):
    """`(event, spec)`; what it returns is ignored."""

    def __call__(self, event: Any, spec: Any, /) -> object:
        """Handle the event."""
