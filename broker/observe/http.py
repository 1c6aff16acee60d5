"""A small HTTP/1.1 server for operators: GET and HEAD of a few paths, bounded in connections, sizes and time.

h11 parses. One connection serves one request at a time; where too many are open, the one that has been quiet for the
longest time is closed, so that slow peers do not keep others out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import h11

log = logging.getLogger("tykpy.http")

MAX_CONNECTIONS: Final = 32
MAX_REQUEST: Final = 16 * 1024
"""Bytes of a request's head."""
MAX_BODY: Final = 16 * 1024
"""Bytes of a request's body, which is read and ignored."""
REQUEST_SECONDS: Final = 10.0
"""Seconds from the first byte of a request to its last one, and as many for the response."""
IDLE_SECONDS: Final = 120.0
"""Seconds between two requests of a connection: longer than Prometheus waits between two scrapes."""
_READ: Final = 16 * 1024
_METHODS: Final = (b"GET", b"HEAD")


class HttpRequest(NamedTuple):
    """A request without its body."""

    path: str
    query: str
    headers: Mapping[str, str]
    """By lower-case name; the last value of each."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers in addition to those of every response."""


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
Routes = dict[str, Handler]
"""Handlers by path."""


class _BadRequestError(Exception):
    """A request that is not answered by a handler."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class HttpServer:
    """Serves routes on connections of any number of sockets; belongs to the event loop that calls it."""

    def __init__(self, routes: Routes, *, is_local: bool = False) -> None:
        """`is_local`: it listens on the loopback interface, and is called by this machine's own names only."""
        self._routes = routes
        self._is_local = is_local
        self._quiet: dict[_Connection, None] = {}
        """Open connections; the one that was quiet for the longest time is first."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its end; a callback of `asyncio.start_server`."""
        connection = _Connection(reader, writer)
        self._quiet[connection] = None
        if len(self._quiet) > MAX_CONNECTIONS:
            next(iter(self._quiet)).abort()
        try:
            while await self._serve_one(connection):
                self._quiet[connection] = self._quiet.pop(connection)
        except (OSError, TimeoutError) as error:
            log.debug("a connection ends: %r", error)  # the peer is gone, or too slow
        finally:
            del self._quiet[connection]
            connection.abort()

    def abort(self) -> None:
        """Close all connections at once."""
        for connection in list(self._quiet):
            connection.abort()

    async def _serve_one(self, connection: "_Connection") -> bool:
        """Answer one request; return whether another one may follow."""
        try:
            head = await connection.receive()
            if head is None:
                return False
            response = await self._respond(head)
            is_head = head.method == b"HEAD"
        except _BadRequestError as error:
            response, is_head = _plain(error.status), False
        async with asyncio.timeout(REQUEST_SECONDS):
            return await connection.send(response, is_head=is_head)

    async def _respond(self, head: h11.Request) -> HttpResponse:
        if head.method not in _METHODS:
            return HttpResponse(
                b"only GET and HEAD\n", status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"}
            )
        try:
            url = urlsplit(head.target.decode("ascii"))
        except ValueError:  # brackets without an address
            return _plain(HTTPStatus.BAD_REQUEST)
        handler = self._routes.get(url.path)
        if handler is None:
            paths = ", ".join(sorted(self._routes))
            return HttpResponse(f"not found; there are {paths}\n".encode(), status=HTTPStatus.NOT_FOUND)
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        if self._is_local and not is_local_name(headers.get("host", "")):
            return _plain(HTTPStatus.MISDIRECTED_REQUEST)
        try:
            return await handler(HttpRequest(url.path, url.query, headers))
        except Exception:
            # The catch-all of this server: other requests are served.
            log.exception("a fault of tykpy itself while it answered %s", url.path)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


class _Connection:
    """One connection, through h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        # `drain` returns when the kernel has everything: nothing is kept for a peer that does not read.
        writer.transport.set_write_buffer_limits(0)

    async def receive(self) -> h11.Request | None:
        """Return the next request, None at the end. Raises TimeoutError and _BadRequestError."""
        try:
            if self._http.trailing_data == (b"", False):
                async with asyncio.timeout(IDLE_SECONDS):
                    self._http.receive_data(await self._reader.read(_READ))
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._receive()
        except h11.RemoteProtocolError as error:
            raise _BadRequestError(HTTPStatus(error.error_status_hint)) from error

    async def _receive(self) -> h11.Request | None:
        head, size = None, 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    raise _BadRequestError(HTTPStatus.EXPECTATION_FAILED)
                self._http.receive_data(await self._reader.read(_READ))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > MAX_BODY:
                    raise _BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            else:
                return head if isinstance(event, h11.EndOfMessage) else None

    async def send(self, response: HttpResponse, *, is_head: bool) -> bool:
        """Send a response; return whether the connection can serve another request."""
        http = self._http
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers.items(),
        ]
        if http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        out = http.send(h11.Response(status_code=response.status, headers=headers, reason=response.status.phrase))
        assert out is not None
        self._writer.write(out)
        if not is_head:
            self._writer.write(http.send(h11.Data(data=response.body)) or b"")
        http.send(h11.EndOfMessage())
        await self._writer.drain()
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return False
        http.start_next_cycle()
        return True

    def abort(self) -> None:
        """Close at once."""
        self._writer.transport.abort()


def is_local_name(host: str) -> bool:
    """Return whether a Host header is an address or localhost.

    A website whose name leads to 127.0.0.1 for a moment (DNS rebinding) has its visitors' browsers send that name.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name != "localhost":
            ip_address(name)
    except ValueError:
        return False
    return True


def _plain(status: HTTPStatus) -> HttpResponse:
    return HttpResponse(f"{status.phrase}\n".encode(), status=status)
