"""The read-only page of --admin-page: what `tykpy top` shows, and plots of the last 15 minutes.

All of it runs in the listener's thread. The page is static files and one JSON document, which it fetches again
and again; its policy (Content-Security-Policy) allows these and nothing else.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import msgspec

from tykpy.broker.observe.http import Handler, HttpRequest, HttpResponse, Routes
from tykpy.broker.observe.listener import Snapshots
from tykpy.telemetry.view import View, Viewer

log = logging.getLogger("tykpy.http")

PERIOD: Final = 5.0
"""Seconds between two samples."""
KEPT_SECONDS: Final = 900
MAX_POINTS: Final = int(KEPT_SECONDS / PERIOD)
MAX_HOOKS: Final = 100
"""Hooks on the page: those that take the most time."""
FILES: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
"""Files in the folder `page`, and their types, by path."""
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Point(msgspec.Struct, array_like=True):
    """One sample of the plots; only its time is known while the event loop is stuck."""

    time: float
    """Unix time."""
    rate: float | None = None
    p50: float | None = None
    p99: float | None = None
    errors: float | None = None
    waiting: int | None = None
    under_way: int | None = None


class PageData(msgspec.Struct):
    """What the page fetches."""

    view: View
    hidden_hooks: int
    """Hooks that are not in the view, as there are too many."""
    kept_seconds: int
    points: list[Point]


class AdminPage:
    """The page and its history."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._viewer = Viewer()
        self._points: deque[Point] = deque(maxlen=MAX_POINTS)
        self._view: View | None = None

    @property
    def routes(self) -> Routes:
        """The handlers of the page and its parts."""
        routes: Routes = {path: _static(*file) for path, file in FILES.items()}
        return routes | {"/live.json": self._live}

    async def keep_history(self) -> None:
        """Take a sample now and then, until cancelled."""
        while True:
            try:
                self.sample()
            except Exception:
                # The catch-all of this task: nobody awaits it, and without it the plots would stand still.
                log.exception("a fault of tykpy itself while it took a sample for the page")
            await asyncio.sleep(PERIOD)

    def sample(self) -> View:
        """Take a sample of the broker's last snapshot, which costs its event loop nothing."""
        view = self._view = self._viewer.see(self._snapshots.latest())
        if view.stuck:
            point = Point(time.time())
        else:
            point = Point(time.time(), view.rate, view.p50, view.p99, view.errors, view.waiting, view.under_way)
        self._points.append(point)
        return view

    async def _live(self, _request: HttpRequest) -> HttpResponse:
        view = self._view or self.sample()
        latest = self._snapshots.latest()
        shown = msgspec.structs.replace(view, age=latest.age, stuck=latest.is_stuck, hooks=view.hooks[:MAX_HOOKS])
        data = PageData(shown, len(view.hooks) - len(shown.hooks), KEPT_SECONDS, list(self._points))
        return HttpResponse(msgspec.json.encode(data), "application/json", headers=HEADERS)


def _static(name: str, content_type: str) -> Handler:
    response = HttpResponse((files(__package__) / "page" / name).read_bytes(), content_type, headers=HEADERS)

    async def handler(_request: HttpRequest) -> HttpResponse:
        return response

    return handler
