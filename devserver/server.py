"""The HTTP server of `tykpy dev`, on aiohttp: the gateway on all paths except those below `/__tykpy`.

It answers this machine only, and only by names of this machine.
"""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.hdrs import SERVER
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from multidict import CIMultiDict

from tykpy.broker.observe.http import is_local_name
from tykpy.devserver.admin import AdminRoutes
from tykpy.devserver.gateway import DevGateway
from tykpy.devserver.inspector.routes import InspectorRoutes
from tykpy.devserver.messages import GatewayRequest, GatewayResponse, values_of
from tykpy.devserver.trace import Trace
from tykpy.devserver.upstream import HOP_BY_HOP
from tykpy.devserver.views.error_page import error_page
from tykpy.workers.objects.go_urls import is_request_uri

INSPECTOR: Final = "/__tykpy"
"""Paths below are the gateway's own."""
LOOPBACK: Final = "127.0.0.1"
MAX_BODY: Final = 256 * 1024 * 1024
"""Bytes of a request's body."""
MAX_LINE: Final = 64 * 1024
"""Bytes of a request line, or of a header."""
CLOSE_SECONDS: Final = 1.0
"""How long running requests may take when the gateway ends."""
_ABSOLUTE: Final = re.compile(r"https?://[^/?]*", re.IGNORECASE)
_NO_BODY: Final = frozenset({204, 304})


class DevServer:
    """Serves a gateway."""

    def __init__(self, gateway: DevGateway, names: Iterable[str] = ()) -> None:
        """`names`: host names that requests may have besides those of this machine."""
        self.gateway = gateway
        self._names = frozenset(name.lower() for name in names)
        self.app = web.Application(middlewares=[self._answer], client_max_size=MAX_BODY)
        """Routes below `/__tykpy` may be added until the server listens."""
        self.app.add_routes(AdminRoutes(gateway).routes(INSPECTOR))
        InspectorRoutes(gateway).register(self.app, INSPECTOR)
        logging.getLogger("aiohttp.server").addFilter(_is_fault)
        self.app.on_response_prepare.append(_without_server)

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[int]:
        """Listen on a port of the loopback interface (0: any) for the time of an `async with`. Raises OSError."""
        runner = web.AppRunner(
            self.app,
            handle_signals=False,
            access_log=None,
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            shutdown_timeout=CLOSE_SECONDS,
        )
        await runner.setup()
        listener = _listener(port)
        try:
            await web.SockSite(runner, listener).start()
            yield listener.getsockname()[1]
        finally:
            await runner.cleanup()

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer every request, also those whose path no route has."""
        if not self._is_ours(request.headers.get("Host", "")):
            name = request.headers.get("Host", "").rpartition(":")[0] or request.headers.get("Host") or "NAME"
            text = f"tykpy dev answers to localhost, 127.0.0.1 and [::1]; --allow-host {name} adds another name\n"
            return web.Response(status=421, body=text.encode(errors="backslashreplace"), content_type="text/plain")
        if not is_request_uri(_path_of(request.raw_path)):
            # Go's server answers without asking the gateway.
            return web.Response(status=400, text="400 Bad Request")
        if request.raw_path == INSPECTOR or request.raw_path.startswith((f"{INSPECTOR}/", f"{INSPECTOR}?")):
            return await handler(request)
        try:
            received = await _read(request)
        except (OSError, web.RequestPayloadError):
            # Nobody waits for this answer: the client left before it had sent the whole request.
            return web.Response(status=400)
        trace = await self.gateway.handle(received)
        return _response(request, self._shown(request, trace))

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        return is_local_name(host) or name.lower() in self._names or name.lower().endswith(".localhost")

    def _shown(self, request: web.Request, trace: Trace) -> GatewayResponse | None:
        """Return the answer, or a page in its place if a browser would be shown an error of the plugin's."""
        answer = trace.response
        if answer is None or answer.status < 400 or "text/html" not in request.headers.get("Accept", ""):
            return answer
        # An auth hook that raises is error 403, as in Tyk.
        problems = [] if trace.problem is None else [trace.problem]
        if answer.status >= 500:
            problems = [*self.gateway.loading.problems, *problems]
        if not problems:
            return answer
        page = error_page(trace, problems)
        return GatewayResponse(answer.status, {"Content-Type": ["text/html; charset=utf-8"], **_PAGE_HEADERS}, page)


_PAGE_HEADERS: Final = {
    "Content-Security-Policy": ["default-src 'none'; style-src 'unsafe-inline'"],
    "X-Content-Type-Options": ["nosniff"],
    "Cache-Control": ["no-store"],
}


async def _read(request: web.Request) -> GatewayRequest:
    pairs = ((_text(name), _text(value)) for name, value in request.raw_headers)
    headers = values_of(pairs)
    host = headers.pop("Host", [""])[0]
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return GatewayRequest(
        method=request.method,
        url=_path_of(request.raw_path),
        headers={name: values for name, values in headers.items() if name != "Transfer-Encoding"},
        host=host,
        body=await request.read(),
        scheme=request.scheme,
        client=f"{peer[0]}:{peer[1]}" if peer else "",
    )


def _path_of(target: str) -> str:
    """Return the path and query of a request's target, which clients of proxies write with scheme and host."""
    found = _ABSOLUTE.match(target)
    return target if found is None else f"/{target[found.end() :].removeprefix('/')}"


def _response(request: web.Request, answer: GatewayResponse | None) -> web.StreamResponse:
    """Return what aiohttp writes. Without an answer, drop the connection."""
    if answer is None:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError
    headers = CIMultiDict(
        (name, value) for name, values in answer.headers.items() if name not in HOP_BY_HOP for value in values
    )
    # Go's server writes an informational status, and then 200.
    status = answer.status if answer.status >= 200 else 200
    if status in _NO_BODY:
        return web.Response(status=status, headers=headers)
    headers.setdefault("Content-Type", _content_type(answer.body))
    if request.method == "HEAD" and "Content-Length" in answer.headers:
        headers["Content-Length"] = answer.headers["Content-Length"][0]
    return web.Response(status=status, headers=headers, body=answer.body)


def _content_type(body: bytes) -> str:
    """Return the type that Go's server would find out, roughly."""
    try:
        body[:512].decode()
    except UnicodeDecodeError as error:
        if error.start < len(body[:512]) - 3:
            return "application/octet-stream"
    return "text/html; charset=utf-8" if body.lstrip()[:1] == b"<" else "text/plain; charset=utf-8"


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether a record is about a fault of ours, and not about a client that sends nonsense, or leaves."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError | ConnectionError)


async def _without_server(_request: web.Request, response: web.StreamResponse) -> None:
    """Leave out the header that names aiohttp: Go's server sends none."""
    if response.headers.get(SERVER, "").startswith("Python/"):
        del response.headers[SERVER]


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
