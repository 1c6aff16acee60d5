"""`/livez` and `/readyz`, for Kubernetes and load balancers."""

from http import HTTPStatus

import msgspec

from tykpy.broker.observe.http import HttpRequest, HttpResponse
from tykpy.broker.observe.listener import Snapshots
from tykpy.telemetry.snapshot import NotReady, Snapshot


class LiveProbe:
    """The handler of `/livez`: fails if the broker's event loop does not turn."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    async def __call__(self, _request: HttpRequest) -> HttpResponse:
        """Return 200, or 503 with the time since the last turn."""
        snapshot = await self._snapshots.fresh()
        if snapshot.is_stuck:
            return HttpResponse(f"{_stuck(snapshot)}\n".encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)
        return HttpResponse(b"ok\n")


class ReadyProbe:
    """The handler of `/readyz`."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    async def __call__(self, _request: HttpRequest) -> HttpResponse:
        """Return 200, or 503 with the reasons, as JSON."""
        snapshot = await self._snapshots.fresh()
        reasons = list(snapshot.not_ready)
        if snapshot.is_stuck:
            reasons.append(NotReady("event_loop", _stuck(snapshot)))
        body = {
            "ready": not reasons,
            "reasons": reasons,
            "workers": {"ready": snapshot.ready, "wanted": snapshot.wanted},
        }
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return HttpResponse(msgspec.json.encode(body) + b"\n", "application/json", status)


def _stuck(snapshot: Snapshot) -> str:
    return f"the event loop has not turned for {snapshot.age:.1f} s"
