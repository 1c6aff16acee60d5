"""Where requests go: an HTTP server, or the built-in echo."""

import asyncio
import gzip
import json
import zlib
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tykpy.devserver.definitions.api import Api
from tykpy.devserver.messages import ECHO_URL, GatewayRequest, GatewayResponse, values_of
from tykpy.devserver.trace import readable

ECHO: Final = "echo"
"""The value of `--upstream` for the built-in echo."""
TARGETS: Final = "api"
"""The value of `--upstream` for the targets of the API definitions."""
SECONDS: Final = 120.0
"""How long the upstream may take."""
HOP_BY_HOP: Final = frozenset(
    {
        "Connection",
        "Content-Length",
        "Expect",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Te",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    }
)
"""Headers of a connection, which are not passed on, and the length, which is that of the body."""
_NOT_ADDED: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class HttpUpstream:
    """Sends requests to a server, and leaves requests and responses as they are."""

    def __init__(self, target: str = ECHO) -> None:
        """`target`: a URL, `echo`, or `api` for the targets of the definitions."""
        self._target = target
        self._session: aiohttp.ClientSession | None = None

    def url_for(self, api: Api) -> str:
        """Return the URL that stands for the API's target."""
        if self._target == TARGETS and api.target_url:
            return api.target_url
        return ECHO_URL if self._target in (ECHO, TARGETS) else self._target

    async def send(self, request: GatewayRequest) -> GatewayResponse:
        """Send a request with an absolute URL. Raises OSError."""
        if request.url.startswith(ECHO_URL):
            return echo(request)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_NOT_ADDED,
                timeout=aiohttp.ClientTimeout(total=SECONDS),
            )
        headers = CIMultiDict(
            (name, value) for name, values in request.headers.items() if name not in HOP_BY_HOP for value in values
        )
        headers["Host"] = request.host
        asks_for_gzip = not request.header("Accept-Encoding") and request.method != "HEAD"
        if asks_for_gzip:
            headers["Accept-Encoding"] = "gzip"
        try:
            return await self._exchange(self._session, request, headers, unpacks=asks_for_gzip)
        except aiohttp.ClientError as error:
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
                raise ConnectionError(f"nothing listens at {error.host}:{error.port}") from error
            raise ConnectionError(str(error) or type(error).__name__) from error
        except asyncio.TimeoutError as error:  # noqa: UP041 (aiohttp's own is a subclass)
            raise ConnectionError(f"no answer within {SECONDS:g} s") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(
        self, session: aiohttp.ClientSession, request: GatewayRequest, headers: CIMultiDict[str], *, unpacks: bool
    ) -> GatewayResponse:
        url = URL(request.url, encoded=True)
        async with session.request(
            request.method, url, headers=headers, data=request.body or None, allow_redirects=False
        ) as answer:
            body = await answer.read()
        pairs = ((name.decode(errors="surrogateescape"), _text(value)) for name, value in answer.raw_headers)
        values = values_of(pairs)
        values = {
            name: of_name for name, of_name in values.items() if name not in HOP_BY_HOP or name == "Content-Length"
        }
        if unpacks and values.get("Content-Encoding") == ["gzip"]:
            # As Go's transport, which had asked for it: nobody else sees that it was compressed.
            body = _unpacked(body)
            values = {
                name: of_name for name, of_name in values.items() if name not in ("Content-Encoding", "Content-Length")
            }
        return GatewayResponse(answer.status, values, body)


def echo(request: GatewayRequest) -> GatewayResponse:
    """HookAnswer with what came, as JSON."""
    parts = urlsplit(request.url)
    described = {
        "method": request.method,
        "url": (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        "headers": {name: values[0] if len(values) == 1 else values for name, values in request.headers.items()},
        "body": readable(request.body),
    }
    body = json.dumps(described, indent=2).encode() + b"\n"
    return GatewayResponse(200, {"Content-Type": ["application/json"]}, body)


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _unpacked(body: bytes) -> bytes:
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise ConnectionError(f"a body that is not gzip, as its header says: {error}") from error
