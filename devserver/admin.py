"""The gateway's own paths for programs, below `/__tykpy`: what is served, load again, sessions of keys.

A change needs the header `X-Tykpy`, which no website can send here without being asked first (CORS).
"""

import json
from typing import Any, Final

from aiohttp import web

from tykpy.devserver.gateway import DevGateway, Loading
from tykpy.devserver.identity.sessions import session_of, stored_session

GUARD: Final = "X-Tykpy"


class AdminRoutes:
    """Handlers for an aiohttp application."""

    def __init__(self, gateway: DevGateway) -> None:
        self._gateway = gateway

    def routes(self, below: str) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get(f"{below}/state", self._state),
            web.post(f"{below}/reload", self._reload),
            web.get(f"{below}/keys/{{key}}", self._key),
            web.put(f"{below}/keys/{{key}}", self._put_key),
        ]

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response(_described(self._gateway.loading))

    async def _reload(self, request: web.Request) -> web.Response:
        check_sender(request)
        return web.json_response(_described(await self._gateway.load()))

    async def _key(self, request: web.Request) -> web.Response:
        session = self._gateway.pipeline.keys.find(request.match_info["key"])
        if session is None:
            raise web.HTTPNotFound(text="no such key\n")
        return web.json_response(stored_session(session))

    async def _put_key(self, request: web.Request) -> web.Response:
        check_sender(request)
        key = request.match_info["key"]
        try:
            session = session_of(json.loads(await request.read()), key)
        except (ValueError, AttributeError, RecursionError) as error:
            raise web.HTTPBadRequest(text=f"not a session: {error}\n") from error
        self._gateway.pipeline.keys.store(key, session)
        return web.Response(status=204)


def check_sender(request: web.Request) -> None:
    """Refuse what a website sends: it cannot set this header, and browsers name its origin. Raises HTTPForbidden."""
    if GUARD not in request.headers:
        raise web.HTTPForbidden(text=f"send the header {GUARD}: 1\n")
    origin = request.headers.get("Origin")
    if origin not in (None, f"{request.scheme}://{request.host}"):
        raise web.HTTPForbidden(text="websites may not change tykpy dev\n")


def _described(loading: Loading) -> dict[str, Any]:
    return {
        "apis": [
            {"api_id": api.api_id, "name": api.name, "listen_path": api.listen_path, "file": api.file}
            for api in loading.apis
        ],
        "problems": [problem.message for problem in loading.problems],
        "warnings": list(loading.warnings),
    }
