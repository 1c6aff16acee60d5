"""The inspector's paths below `/__tykpy`: its page, the list of requests, and all about one of them."""

import asyncio
import contextlib
import json
from importlib.resources import files
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tykpy.broker.observe.admin_page import HEADERS as PAGE_HEADERS
from tykpy.devserver.admin import check_sender
from tykpy.devserver.gateway import DevGateway
from tykpy.devserver.inspector.curl import curl_command
from tykpy.devserver.inspector.details import details, messages, summary
from tykpy.devserver.inspector.hook_tests import modules_of, pytest_code
from tykpy.devserver.trace import Trace

HEADERS: Final = {**PAGE_HEADERS, "X-Content-Type-Options": "nosniff"}
WAIT_SECONDS: Final = 20.0
"""How long a page waits for news at most, before it asks again."""
MAX_PROBLEMS: Final = 20
MAX_PROBLEM: Final = 1_000
"""Longest problem of a bundle in the list, in characters."""
_FILES: Final = {
    "": ("page.html", "text/html"),
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
"""Files in the folder `page` and their types, by path."""


class InspectorRoutes:
    """Handlers for an aiohttp application. Pages learn about news by a request that waits for them."""

    def __init__(self, gateway: DevGateway) -> None:
        self._gateway = gateway
        self._revision = 0
        self._changed = asyncio.Event()
        gateway.observers.append(self._notify)
        gateway.on_load.append(self._notify)

    def register(self, app: web.Application, below: str) -> None:
        """Add the routes."""
        app.on_shutdown.append(self._stop)
        one = f"{below}/requests/{{number:[0-9]{{1,15}}}}"
        app.add_routes(
            [
                *(web.get(below + path, _file(*file)) for path, file in _FILES.items()),
                web.get(f"{below}/requests", self._list),
                web.get(one, self._details),
                web.get(f"{one}/trace", self._trace),
                web.get(f"{one}/bodies/{{name}}", self._body),
                web.get(f"{one}/curl", self._curl),
                web.get(f"{one}/test", self._test),
                web.post(f"{one}/send", self._send),
            ]
        )
        self._below = below

    def _notify(self, _what: object) -> None:
        self._revision += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _stop(self, _app: web.Application) -> None:
        """Answer the pages that wait."""
        self._notify(None)

    async def _list(self, request: web.Request) -> web.Response:
        """Answer with all requests; with `since`, not before something has changed since that revision."""
        if request.query.get("since") == str(self._revision):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._changed.wait()
        loading, titles = self._gateway.loading, self._titles()
        return _json(
            {
                "revision": self._revision,
                "problems": [problem.message[:MAX_PROBLEM] for problem in loading.problems[:MAX_PROBLEMS]],
                "requests": [summary(trace, titles) for trace in reversed(self._gateway.traces)],
            }
        )

    async def _details(self, request: web.Request) -> web.Response:
        trace = self._find(request)
        found = details(trace, with_secrets=request.query.get("secrets") == "1")
        return _json(summary(trace, self._titles()) | found)

    async def _trace(self, request: web.Request) -> web.Response:
        """Answer with everything, uncut."""
        return _json(self._find(request).describe())

    async def _body(self, request: web.Request) -> web.Response:
        trace = self._find(request)
        message = messages(trace).get(name := request.match_info["name"])
        if message is None:
            raise web.HTTPNotFound(text=f"request {trace.number} has no message {name!r}\n")
        file = f'attachment; filename="{trace.number}-{name}.body"'
        headers = {**HEADERS, "Content-Disposition": file}
        return web.Response(body=message.body, content_type="application/octet-stream", headers=headers)

    async def _curl(self, request: web.Request) -> web.Response:
        trace = self._find(request)
        body = f"{self._below}/requests/{trace.number}/bodies/request"
        return _text(curl_command(trace.request, request.host, body))

    async def _test(self, request: web.Request) -> web.Response:
        return _text(pytest_code(self._find(request), modules_of(self._gateway.loading.loaded)))

    async def _send(self, request: web.Request) -> web.Response:
        """Send a request again, and answer with the number of the new one."""
        check_sender(request)
        again = await self._gateway.handle(self._find(request).request.copy())
        return _json({"number": again.number})

    def _titles(self) -> dict[str, str]:
        return {api.api_id: api.title for api in self._gateway.loading.apis}

    def _find(self, request: web.Request) -> Trace:
        number = int(request.match_info["number"])
        trace = self._gateway.trace(number)
        if trace is None:
            raise web.HTTPNotFound(text=f"request {number} is not one of the last {self._gateway.traces.maxlen}\n")
        return trace


def _file(name: str, content_type: str) -> Handler:
    body = (files(__package__) / "page" / name).read_bytes()

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=HEADERS)

    return handler


def _json(document: Any) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json", headers=HEADERS)


def _text(text: str) -> web.Response:
    body = text.encode(errors="backslashreplace")
    return web.Response(body=body, content_type="text/plain", charset="utf-8", headers=HEADERS)
